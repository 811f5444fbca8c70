"""Notes that say the fix, under errors that PyTorch's habits run into in a user's function.

JAX's own error says what went wrong there; a note under it (PEP 678) says what to write instead.
The error's type and message are left alone, and so is an error that no rule here knows. `funcgrad
compare` says the same of a port that fails.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple

from ._types import Function, P, R

_CONTEXTS = contextlib.__file__

_NO_CHANGE = (
    "arrays never change: give the new value a name, `x = x + 1`, `x = x.at[i].set(v)`, and return"
    " what the caller should see"
)
_MOVE = "`jax.device_put(x, device)` moves an array, `x.astype(dtype)` converts it"
_PLACED = (
    "where a traced value will be is not known while tracing: leave it out, an array is made where"
    " the others are"
)
_SCATTER = "write `x.at[index].set(v)`, `x.at[index].add(v)`"
_OPERATORS = "write it as Python does, `x * y`, `x == y`"
_LOOK = (
    "values are not there to look at while a function is traced; return them beside the output with"
    " has_aux=True, print them with `jax.debug.print`, or leave it to after the call: its results"
    " have values, `numpy.asarray(result)`"
)
_KEYS = (
    "random numbers come from a key that is passed in, and no state is kept:"
    " `jax.random.normal(key, shape)`, with a new key for each call from `jax.random.split`"
)
_SHAPES = (
    "shapes are fixed when a function is traced: `jnp.where(mask, x, 0)` in place of `x[mask]`,"
    " `jnp.nonzero(x, size=n)`, and numbers that make shapes as static arguments,"
    " `jax.jit(fun, static_argnums=1)`"
)

# What a tensor has and an array has not, and no function of that name either.
_ATTRIBUTES = {
    "backward": "an array does not know what it was computed from: write `funcgrad.grad(fun)(x)` of"
    " the function that computes it",
    "grad": "a gradient is a result, not an attribute: `g = funcgrad.grad(fun)(x)`; that of an"
    ' intermediate value is `y = funcgrad.retain_grad(y, "y")` and `retain="y"`',
    "requires_grad": "what is differentiated is said where the gradient is asked for:"
    " `funcgrad.grad(fun, argnums, requires_grad=...)`",
    "requires_grad_": "what is differentiated is said where the gradient is asked for:"
    " `funcgrad.grad(fun, argnums, requires_grad=...)`",
    "retain_grad": 'write `y = funcgrad.retain_grad(y, "y")`, and ask with `retain="y"`',
    "register_hook": "write `x = funcgrad.register_hook(x, hook)`",
    "detach": "write `funcgrad.detach(x)`",
    "detach_": "write `x = funcgrad.detach(x)`",
    "data": "write `funcgrad.detach(x)` to read it, `x = funcgrad.set_data(x, v)` to set it",
    "grad_fn": "no graph is kept: the program is what `jax.make_jaxpr(fun)(x)` shows",
    "is_leaf": "no graph is kept: leaves are the arguments that `argnums` names",
    "zero_": _NO_CHANGE + "; a fresh accumulator is `funcgrad.zero_grad(x)`",
    "clone": "arrays never change, so none needs a copy: leave it out",
    "numpy": _LOOK,
    "tolist": _LOOK,
    "unsqueeze": "write `jax.numpy.expand_dims(x, axis)`",
    "permute": "write `jax.numpy.transpose(x, axes)`",
    "masked_fill": "write `jax.numpy.where(mask, value, x)`",
    "gather": "write `jax.numpy.take_along_axis(x, index, axis)`",
    "index_select": "write `jax.numpy.take(x, index, axis)`",
    "expand": "write `jax.numpy.broadcast_to(x, shape)`",
    "new_zeros": "write `jax.numpy.zeros(shape, x.dtype)`",
    "clamp": "write `jax.numpy.clip(x, lowest, highest)`",
    "view_as": "write `x.reshape(y.shape)`",
    "expand_as": "write `jax.numpy.broadcast_to(x, y.shape)`",
    "contiguous": "arrays have no strides to tidy up: leave it out",
    "new_ones": "write `jax.numpy.ones(shape, x.dtype)`",
    "new_tensor": "write `jax.numpy.asarray(values, x.dtype)`",
    "where": "write `jax.numpy.where(mask, x, y)`",
    "split": "write `jax.numpy.split(x, parts, axis)`, which wants how many parts, not their size",
    "chunk": "write `jax.numpy.split(x, parts, axis)`",
    "unbind": "write `tuple(x)`, or `jax.numpy.unstack(x, axis=axis)`",
    "select": "write `jax.numpy.take(x, index, axis)`",
    "narrow": "write `jax.lax.slice_in_dim(x, start, start + length, axis=axis)`",
    "topk": "write `jax.lax.top_k(x, k)`",
    "equal": "write `jax.numpy.array_equal(x, y)`",
    "scatter": _SCATTER,
    "scatter_": _SCATTER,
    "scatter_add": _SCATTER,
    "scatter_add_": _SCATTER,
    "index_add": _SCATTER,
    "index_add_": _SCATTER,
    "mm": "write `a @ b`",
    "bmm": "write `a @ b`",
    "t": "write `x.T`",
    **dict.fromkeys(["mul", "sub", "div", "neg", "eq", "ne", "lt", "le", "gt", "ge"], _OPERATORS),
    "numel": "write `x.size`",
    "dim": "write `x.ndim`",
    "float": "write `x.astype(jax.numpy.float32)`",
    **dict.fromkeys(["double", "half", "int", "long", "bool", "type"], "write `x.astype(dtype)`"),
    "cpu": _MOVE,
    "cuda": _MOVE,
    "to": _MOVE,
    "device": _PLACED,
    "is_cuda": _PLACED,
}


# What `torch` and `torch.nn.functional` have and `jax.numpy`, `jax.nn` and `jax.random` have not.
_NAMES = {
    **{name: fix for name, fix in _ATTRIBUTES.items() if fix.startswith("write `jax.")},
    **dict.fromkeys(["random", "rand", "randn", "seed", "manual_seed"], _KEYS),
    "cat": "write `jax.numpy.concatenate(arrays, axis)`",
    "tensor": "write `jax.numpy.asarray(values)`",
    "from_numpy": "write `jax.numpy.asarray(values)`",
}


_ARRAY, _LIST = r"[\w.]*(Tracer|ArrayImpl)", "(list|tuple)"


class _Rule(NamedTuple):
    """What to write instead where an error of a class has a message that a pattern is found in."""

    kind: str
    pattern: str
    fix: str


_RULES = (
    _Rule(
        "TracerBoolConversionError",
        "",
        "Python's `if`, `while`, `and`, `or`, `not` need a value, and there is none while a"
        " function is traced (under `jax.jit`, in loops, and where `retain`, `allow_unused` or"
        " `materialize_grads` is given): convert the function, `funcgrad.autograph(fun,"
        " max_steps=...)`, or write `jnp.where`, `jax.lax.cond`, `funcgrad.while_loop`; a flag"
        " among the arguments is traced too, unless `jax.jit(fun, static_argnames=...)` names it",
    ),
    _Rule(
        "TracerArrayConversionError",
        "",
        "NumPy and PyTorch cannot compute with traced values: use `jax.numpy`; " + _LOOK,
    ),
    _Rule(
        "TracerIntegerConversionError",
        "",
        "an index or a length must be known while tracing: for `range(n)` write"
        " `funcgrad.fori_loop`, for `items[n]` make one array of them, or convert the function,"
        " `funcgrad.autograph(fun, max_steps=...)`",
    ),
    _Rule(
        "ConcretizationTypeError",
        r"`(float|int|complex)` function|(item|tolist)\(\) method",
        "`float`, `int`, `.item()`: " + _LOOK,
    ),
    _Rule("ConcretizationTypeError", "size argument", _SHAPES),
    _Rule("NonConcreteBooleanIndexError", "", _SHAPES),
    _Rule("TypeError", "Shapes must be 1D sequences of concrete values", _SHAPES),
    _Rule("NotImplementedError", r"array\.view\(\)", "write `x.reshape(shape)`"),
    _Rule(
        "NotImplementedError",
        "Closing over inputs to shard_map",
        "on a mesh with explicit axes JAX lets nothing inside a `shard_map`, a hook of"
        " `funcgrad.with_hooks` included, close over an array: hand it to the function in an"
        " argument, or make the mesh with `axis_types=(jax.sharding.AxisType.Auto,)`",
    ),
    _Rule(
        "UnexpectedTracerError",
        "",
        "a value was put into a list, a global or an object from inside a function that was traced"
        " (as `optimizer.step()` and `self.h = h` do in PyTorch); return it instead:"
        " `funcgrad.value_and_grad(fun, has_aux=True)`; the body of a loop returns it as a part of"
        " what it carries, and `jax.lax.scan` stacks what its body returns besides",
    ),
    _Rule(
        "ValueError",
        "Length of device assignment .* size of the mesh",
        "an array lies on a mesh of explicit axes, and JAX makes constants beside it, such as the"
        " gradient 1 that a backward pass begins with, which outside `jax.jit` lie on one device:"
        " make the call under `with jax.set_mesh(mesh):`, the mesh being `x.sharding.mesh`",
    ),
    _Rule("TypeError", "do not support in-place item assignment", _NO_CHANGE),
    _Rule(
        "TypeError",
        rf"must be Tensor, not {_ARRAY}|'Tensor' and '{_ARRAY}'|{_ARRAY}' and 'Tensor'"
        rf"|invalid combination of arguments - got \(.*{_ARRAY}|of type '<class 'torch\.",
        "JAX does not differentiate PyTorch: use `jax.numpy`, `jax.nn`, and make arrays of tensors,"
        " `jnp.asarray(tensor.detach().numpy())`",
    ),
    _Rule(
        "TypeError",
        rf"requires? (ndarray|array).* got <class '{_LIST}'>"
        rf"|: '{_LIST}' and '{_ARRAY}'|{_ARRAY}' and '{_LIST}'",
        "a list is a pytree, each element a value of its own: make one array of the list,"
        " `jnp.stack(items)`, or `jax.tree.map` over it",
    ),
    _Rule(
        "TypeError",
        "PRNG key",
        _KEYS,
    ),
    _Rule(
        "TypeError",
        r"unexpected keyword argument '(has_aux|gradient|retain|requires_grad|allow_unused"
        r"|materialize_grads|argnums)'",
        "keywords of the gradient go into the first pair of parentheses, the arguments into the"
        " second: `funcgrad.grad(fun, retain=...)(x)`",
    ),
    _Rule(
        "ValueError",
        "Unexpected value for 'order' argument: -?[0-9]",
        "`x.flatten(1)` is `x.reshape(x.shape[0], -1)`",
    ),
    _Rule(
        "TypeError",
        r"unexpected keyword argument '(dim|keepdim)'",
        "`jax.numpy` has NumPy's words: `axis=`, `keepdims=`",
    ),
)


def fix_for(kinds: Iterable[str], message: str) -> str | None:
    """What to write instead of what raised an error, where that is known.

    Args:
        kinds: the names of its class and of that one's bases, as far as they are known.
        message: its text.

    >>> fix_for(["AttributeError"], "'ArrayImpl' object has no attribute 'detach'")
    'write `funcgrad.detach(x)`'
    >>> fix_for(["TypeError"], "something else")
    """
    kinds = set(kinds)
    if "AttributeError" in kinds:
        return _attribute(message)
    found = (r.fix for r in _RULES if r.kind in kinds and re.search(r.pattern, message))
    return next(found, None)


def _attribute(message: str) -> str | None:
    found = re.search(r"module 'jax\.(?:numpy|nn|random)\S*' has no attribute '(\w+)'", message)
    if found:
        return _NAMES.get(found[1]) or _function(found[1], "write")
    if re.search(r"'tuple' object has no attribute '(startswith|endswith|split|find)'", message):
        return (
            "a path that `requires_grad` is given is a tuple of keys, of which"
            " `jax.tree_util.keystr(path)` makes a string"
        )
    found = re.search(r"(Tracer|ArrayImpl)'? (?:object )?has no attribute '?(\w+)", message)
    if not found:
        return None
    name = found[2]
    in_place = name.endswith("_") and not name.startswith("_")
    method = _NO_CHANGE if in_place else _function(name, "arrays have few methods: write")
    return _ATTRIBUTES.get(name, method)


def _function(name: str, words: str) -> str | None:
    """These words and JAX's function of that name, where it has one."""
    import jax

    homes = {"jax.numpy": jax.numpy, "jax.nn": jax.nn, "jax.numpy.linalg": jax.numpy.linalg}
    found = (path for path, home in homes.items() if callable(getattr(home, name, None)))
    path = None if name.startswith("_") else next(found, None)
    return path and f"{words} `{path}.{name}(x)`"


class _Explained:
    """Around the call of a user's function: `with explained:`, or `@explained` above an inner one.

    It lets every error through, with a note where the fix is known, and takes the frames out of its
    traceback that stand between the user's lines, as JAX takes out its own.
    """

    def __call__(self, fun: Function[P, R]) -> Function[P, R]:
        """A function of which all is inside."""

        @functools.wraps(fun)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return fun(*args, **kwargs)

        return inside

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            return
        fix = fix_for([base.__name__ for base in type(error).__mro__], str(error))
        note = f"funcgrad: {fix}"
        if fix and note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        error.__traceback__ = _of_users(error.__traceback__)


def _of_users(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without funcgrad's frames and those of JAX that it called.

    JAX's setting `jax_traceback_filtering="off"` keeps them, as it keeps JAX's own.
    """
    import jax

    if getattr(jax.config, "jax_traceback_filtering", None) == "off":
        return traceback
    ours, theirs = os.path.dirname(__file__) + os.sep, os.path.dirname(jax.__file__) + os.sep
    kept: list[TracebackType] = []
    inside = False
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        inside = file.startswith(ours) or (inside and file.startswith((theirs, _CONTEXTS)))
        kept += [] if inside else [traceback]
        traceback = traceback.tb_next
    following = None
    for one in reversed(kept):
        following = TracebackType(following, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return following


explained = _Explained()
