"""Values, types and operations in words that fit into a picture."""

import ast
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import _jax
from ..._describe import describe, number

MOST_NUMBERS = 6
MOST_LETTERS = 34

_OWN = {"inject_gradient": "set_data"}


def short(text: str, most: int = MOST_LETTERS) -> str:
    """A text on one line of at most `most` letters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def kinds(avals: Any, most: int = 2) -> tuple[str, ...]:
    """The types of several values, the first few of them, each once."""
    found = list(dict.fromkeys(map(describe, avals)))
    return (*found[:most], *([f"and {len(found) - most} more"] if len(found) > most else []))


def numbers(array: Any) -> str:
    """An array in words: all of a few numbers; of many their range, their mean, what is bad.

    Empty for keys, and where values are not at hand.

    >>> numbers(jnp.arange(4.0)), numbers(jnp.float32(28.0))
    ('[0, 1, 2, 3]', '28')
    >>> numbers(jnp.linspace(-1.0, 3.0, 100))
    '-1 to 3, mean 1'
    """
    array = jnp.asarray(array)
    if _jax.is_tracer(array) or jnp.issubdtype(array.dtype, jax.dtypes.extended):
        return ""
    if not array.is_fully_addressable:  # parts of it are in other processes
        return ""
    host = np.asarray(array)
    if host.dtype.kind == "V":  # NumPy has no bfloat16, float8 or int4 of its own
        host = host.astype(np.float32)
    if host.size <= MOST_NUMBERS:
        return _nested(host)
    if host.dtype == bool:
        return f"{int(host.sum())} of {host.size} true"
    finite = np.isfinite(host)
    good = host if finite.all() else host[finite]
    words = [f"{host.size - good.size} of {host.size} not finite"] if good.size < host.size else []
    if good.size and np.iscomplexobj(host):
        words.insert(0, f"size up to {_plain(np.abs(good).max())}")
    elif good.size and good.min() == good.max():
        words.insert(0, f"{'' if words else 'all '}{_plain(good.flat[0])}")
    elif good.size:
        words.insert(
            0,
            f"{_plain(good.min())} to {_plain(good.max())}, mean {_plain(good.mean(dtype=float))}",
        )
    return ", ".join(words)


def _nested(host: Any) -> str:
    if not host.shape:
        return _plain(host[()])
    return "[" + ", ".join(map(_nested, host)) + "]"


def _plain(x: Any) -> str:
    """A number to four digits, as one writes it by hand."""
    x = np.asarray(x)[()]
    if np.iscomplexobj(x) or not jnp.issubdtype(x.dtype, jnp.inexact):
        return number(x)
    return f"{float(x):.4g}"


def operation(equation: _jax.Equation) -> str:
    """What an equation does, with the numbers it is done with: `mul 2`, `sub(1, ·)`."""
    name = equation.name
    if equation.programs and name != "register_hook":
        return short(equation.function.strip("_") or name)
    title = _OWN.get(name, name)
    given = [_plain(_jax.value_of(v)) if _is_number(v) else "·" for v in equation.reads]
    literals = [text for text in given if text != "·"]
    trailing = given[len(given) - len(literals) :] == literals
    if not trailing and not _jax.has(name, _jax.Trait.COMMUTATIVE):
        return short(f"{title}({', '.join(given)})")
    words, exponent, axes = [title, *literals], _jax.exponent(equation), _jax.axes_lost(equation)
    if exponent is not None:
        words.append(str(exponent))
    if name.startswith("reduce_") and axes:
        words.append(f"axis {', '.join(map(str, axes))}")
    return short(" ".join(words))


def _is_number(atom: Any) -> bool:
    return _jax.is_literal(atom) and not _jax.type_of(atom).shape


def call(text: str) -> str:
    """The name of the function that an expression calls; empty where it is no call.

    >>> call("jax.nn.softmax(scores / 2)"), call("a + b")
    ('softmax', '')
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return ""
    if not isinstance(tree, ast.Call):
        return ""
    fun = tree.func
    return fun.attr if isinstance(fun, ast.Attribute) else getattr(fun, "id", "")


def tip(equation: _jax.Equation, place: _jax.Place | None) -> str:
    """The operation with its parameters, and the user's file, line and text."""
    params = ", ".join(f"{key}={short(text, 60)}" for key, text in equation.shown.items())
    what = short(f"{equation.name}[{params}]" if params else equation.name, 300)
    return "\n".join([what, *where(place)])


def where(place: _jax.Place | None) -> list[str]:
    """The user's line: where it is, and its text."""
    if place is None:
        return []
    own = place.own
    file = f"{Path(own.file).name}, " if Path(own.file).is_file() else ""  # not a notebook's cell
    return [f"{file}line {own.line}, in {own.function}", *_jax.excerpt(own)[:1]]
