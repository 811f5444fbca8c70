"""What is inside a function, reached from outside: `capture` reads it, `with_hooks` changes it."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .. import _jax, _taps
from .._calls import Parts, every_argument
from .._describe import describe
from .._mistakes import explained
from .._objects import Left, carried, holds_objects
from .._types import Function, P, R
from ..errors import TagError, UsageError
from .chosen_tags import Pattern, Use, names_of, select

Hook = Callable[..., Any]
Hooks = Mapping[Any, Hook | Sequence[Hook]]


def capture(fun: Function[P, R], names: Pattern) -> Callable[P, tuple[R, dict[str, Any]]]:
    """A function like `fun` that returns the values of named intermediates beside its result.

    Stands for a forward hook that stores a module's output. Nothing is differentiated; the result
    of `capture` may be differentiated, compiled and mapped as `fun` itself.

    Args:
        fun: a function of pytrees, or a model that is called. It is traced, so Python's `if` and
            `while` cannot look at the values of its arrays.
        names: the names wanted: one, several, `fnmatch` patterns, or `...` for all. Names come from
            `retain_grad`, and from [`named`][funcgrad.named] for the parts of a model.

    Returns:
        A function of the arguments of `fun` that returns `(out, values)`. `values` is a dict in the
        order of the program; each value is a pytree as it was named, with an axis in front for each
        loop, mesh axis and `vmap` inside `fun` around it, as [`retain_grad`][funcgrad.retain_grad]
        says; zeros in a branch that is not taken.

    Raises:
        TagError: a name is not there, was used twice, or stands in a `lax.while_loop` or in a
            function with a custom rule.
        UsageError: `fun` cannot be called, `names` holds no string.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> def f(x):
    ...     h = fg.retain_grad(jnp.sin(x), "h")
    ...     return jnp.sum(h)
    >>> out, values = fg.capture(f, "h")(jnp.zeros(2))
    >>> values
    {'h': Array([0., 0.], dtype=float32)}
    """
    _check_callable(fun, "capture")
    names = names_of(names)
    use = Use("capture", "names", gradient=False)

    @functools.wraps(fun)
    @explained
    def captured(*args: Any, **kwargs: Any) -> Any:
        def acts(sites: dict[str, _taps.Site]) -> _taps.Acts:
            return dict.fromkeys(select(names, sites, use), _taps.READ)

        result, made = _evaluated(fun, args, kwargs, "capture", acts)
        values = {name: made.sites[name].tree.unflatten(x) for name, x in made.leaves.items()}
        return result, values

    return captured


def with_hooks(
    fun: Function[P, R], *, forward: Hooks | None = None, backward: Hooks | None = None
) -> Callable[P, R]:
    """A function like `fun`, with hooks on named values and on the gradients at them.

    Stands for `register_forward_hook` and `register_full_backward_hook` on the modules of a model,
    and for hooks on tensors, set from outside. A hook takes the value, or the gradient, and returns
    a new one of the same structure, shapes and dtypes, or `None` to leave it. What a hook closes
    over may be traced, and is differentiated.

    Args:
        fun: a function of pytrees, or a model that is called. It is traced, so Python's `if` and
            `while` cannot look at the values of its arrays.
        forward: hooks by name: a name, a tuple of names, an `fnmatch` pattern, or `...` for all, to
            a hook or several. Hooks on one name run in the order given.
        backward: the same for gradients, in PyTorch's convention where they are complex. They run
            in the order in which they are given, on the gradient of what the forward hooks
            returned; forward mode ignores them.

    A hook with a keyword `index` is given the numbers of the rows of the loops inside `fun` around
    the value, the outermost first: a tuple of traced integers, `()` outside a loop. In a `scan`
    over the layers of a model `jnp.where(index[0] == 7, new, value)` acts on layer 7 alone. Under a
    `vmap` inside `fun` a hook sees one example; of a value that all examples share, the one value,
    and the sum of their gradients. In a `shard_map` it sees what one device has. In a branch that
    is not taken it does not run. A hook is traced once for each place; one that prints should use
    `jax.debug.print`.

    Returns:
        A function with the arguments and the results of `fun`. Its names can be asked for in turn,
        and are of what the forward hooks returned; gradients at them have passed the backward
        hooks, as `retain_grad` of a tensor with a hook has in PyTorch.

    Raises:
        TagError: a name is not there or was used twice, stands in a function with a custom rule, or
            in a loop without rows while a hook takes `index`; a gradient inside `fun` has gone
            through it, or it holds no floating array for a backward hook.
        TreeError: a hook returns another structure, shape or dtype, or what differs between the
            devices or the examples that share the value.
        UsageError: `fun` cannot be called, or a hook, with one value.

    >>> import jax, jax.numpy as jnp, funcgrad as fg
    >>> def f(x):
    ...     h = fg.retain_grad(jnp.sin(x), "h")
    ...     return jnp.sum(2 * h)
    >>> float(fg.with_hooks(f, forward={"h": jnp.ones_like})(jnp.zeros(2)))
    4.0
    >>> fg.grad(fg.with_hooks(f, backward={"h": lambda g: 10 * g}))(jnp.zeros(2))
    Array([20., 20.], dtype=float32)
    """
    _check_callable(fun, "with_hooks")
    hooks = _Hooks(_entries(forward, "forward"), _entries(backward, "backward"))

    @functools.wraps(fun)
    @explained
    def hooked(*args: Any, **kwargs: Any) -> Any:
        return _evaluated(fun, args, kwargs, "with_hooks", hooks.acts)[0]

    return hooked


class _Hooks(NamedTuple):
    """The hooks of a call, by what they are asked for."""

    forward: list[tuple[Any, list[Hook]]]
    backward: list[tuple[Any, list[Hook]]]

    def acts(self, sites: dict[str, _taps.Site]) -> _taps.Acts:
        ahead, back = (
            _by_name(self.forward, sites, "forward"),
            _by_name(self.backward, sites, "backward"),
        )
        for name in back:
            if not any(sites[name].chosen):
                raise TagError(
                    f"`with_hooks` got {name!r} in `backward`, tagged at {sites[name].where}, where"
                    " the value holds no floating array and has no gradient"
                )
        found = {n: _taps.hooked(ahead.get(n, []), back.get(n, [])) for n in {**ahead, **back}}
        for name, act in found.items():
            _check_reached(name, sites[name], act)
        return found


def _by_name(
    entries: list[tuple[Any, list[Hook]]], sites: dict[str, _taps.Site], keyword: str
) -> dict[str, list[Hook]]:
    found: dict[str, list[Hook]] = {}
    use = Use("with_hooks", keyword, gradient=False, rows=False)
    for names, hooks in entries:
        for name in select(names, sites, use):
            found.setdefault(name, []).extend(hooks)
    return found


def _check_reached(name: str, site: _taps.Site, act: _taps.Act) -> None:
    if site.differentiated:
        raise TagError(
            f"`with_hooks` got {name!r}, tagged at {site.where}, through which a gradient inside"
            " the function has gone already, without the hook; put the hooks around what is"
            " differentiated there: jax.grad(funcgrad.with_hooks(inner, ...))"
        )
    if act.indexed and site.blocked:
        raise TagError(
            f"`with_hooks` got a hook with `index` for {name!r}, tagged at {site.where}, inside"
            f" `{site.blocked}`, whose steps have no rows to number; use jax.lax.scan, or"
            " funcgrad.while_loop or fori_loop with max_steps=, or a hook without `index`"
        )


def _entries(hooks: Any, keyword: str) -> list[tuple[Any, list[Hook]]]:
    if hooks is None:
        return []
    if not isinstance(hooks, Mapping):
        raise UsageError(
            f"`with_hooks` got {describe(hooks)} as `{keyword}`, and wants a dict of names to"
            ' hooks: {"layers/0": lambda value: value}'
        )
    found = []
    for names, given in hooks.items():
        several = list(given) if isinstance(given, list | tuple) else [given]
        for hook in several:
            if not callable(hook):
                raise UsageError(
                    f"`with_hooks` got {describe(hook)} for {names!r} in `{keyword}`, and wants a"
                    " function of the value"
                    + (" or a list of such functions" if keyword == "forward" else "'s gradient")
                )
            _check_takes(hook, names, keyword)
        found.append((names, several))
    return found


def _check_takes(hook: Hook, names: Any, keyword: str) -> None:
    """Refuses a hook that cannot be called with one value, such as one of a module of PyTorch."""
    index = {"index": ()} if _taps.takes_index(hook) else {}
    try:
        inspect.signature(hook).bind(None, **index)
    except ValueError:
        return  # nothing is known of some functions that are not of Python
    except TypeError as error:
        given = "value" if keyword == "forward" else "gradient"
        raise UsageError(
            f"`with_hooks` got a hook for {names!r} in `{keyword}` that cannot be called with the"
            f" {given} alone ({error}), and wants a function of one argument, the {given} (no"
            " module and no inputs), and of `index` if it likes: lambda value: ..."
        ) from error


class _Made(NamedTuple):
    """What acts made, and the tags of the program."""

    leaves: dict[str, Any]
    sites: dict[str, _taps.Site]


def _evaluated(
    fun: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    function: str,
    acts: Callable[[dict[str, _taps.Site]], _taps.Acts],
) -> tuple[Any, _Made]:
    """What `fun` returns where it is evaluated with acts at its tags, and what they made."""
    if holds_objects(fun):  # a model with state is an argument like others
        return _evaluated(_called, (fun, *args), kwargs, function, acts)
    with carried(fun, args, kwargs, function) as carry:
        call = every_argument(carry.fun, carry.args, carry.kwargs, function=function)
        seen: list[Parts] = []

        def arrays(*leaves: Any) -> list[Any]:
            whole = call.returned(leaves)
            seen.append(whole.parts)
            return whole.arrays

        program = _jax.trace(arrays, call.arrays)
        sites = _taps.find(program)
        results, made = _taps.run(program, call.arrays, acts(sites))
        left: Left = seen[-1].join(results)
        return carry.restore(left), _Made(made, sites)


def _called(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return model(*args, **kwargs)


def _check_callable(fun: Any, function: str) -> None:
    if not callable(fun):
        raise UsageError(
            f"`{function}` got {describe(fun)}, and wants a function or a model that can be called"
        )
