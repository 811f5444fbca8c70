"""`backward` as functions: `vjp`, `grad` and `value_and_grad`.

All three make one forward pass and one function that pulls a gradient back through it. Asked for
gradients alone, the forward pass is `jax.vjp` of the function as it stands. Asked for retained
intermediates, or whether an input is used at all, the function is first traced to a jaxpr, once; it
must then be traceable, so no Python `if` or `while` on its values.
"""

import functools
import types
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import (
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    TypeVarTuple,
    Unpack,
    overload,
)

import jax
import jax.numpy as jnp

from .. import _jax
from .._calls import (
    Call,
    differentiated,
    from_front,
    gradients,
    indices,
    path_of,
    read_argnums,
    scatter,
)
from .._describe import describe, differences
from .._leaves import adopt_dtypes, conjugate, refuse_iterators, settings, takes_gradient
from .._mistakes import explained
from .._objects import Left, carried
from .._types import Function, Grads, P, R
from ..errors import GradientError, TreeError, UsageError
from .chosen_tags import Names, Request, Retain, names_of
from .keywords import Either, Named, Plain, WithAux, WithAuxNamed
from .program import plain, traced

Ts = TypeVarTuple("Ts")
Aux = TypeVar("Aux")
Pulled = TypeVar("Pulled")


class Retained(NamedTuple):
    """A named intermediate and what reached it in the backward pass.

    Fields:
        value: what was given to `retain_grad`, a pytree; with an axis in front for each `scan` or
            `vmap` around it.
        grad: its gradient, shaped like `value`; `None` at integer and bool leaves.
    """

    value: Any
    grad: Any


RetainedByName = dict[str, Retained]
GradsOfEach = tuple[Grads, ...]


class _Tag(NamedTuple):
    """The static part of a retained entry: its name, and how its leaves make up the pytree.

    Of statistics, the dtypes of those of its gradient; else `None`.
    """

    name: str
    tree: Any
    dtypes: tuple[Any, ...] | None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["pull", "values", "indices"],
    meta_fields=["function", "out", "out_tree", "tree", "chosen", "tags"],
)
@dataclass(frozen=True, eq=False)
class Pullback(Generic[Pulled]):
    """Pulls a gradient of the output back to the inputs: the second result of `vjp`.

    It may be called any number of times, and is a pytree: a jitted function may return it or take
    it.

    Fields:
        pull: JAX's own pullback, onto the leaves that take gradients and the taps.
        values: the leaves of each retained value.
        indices: those of sparse primals, by place.
        function: the public function to name in errors.
        out, out_tree: the types of the output's leaves, and its structure.
        tree, chosen: how the gradients of leaves make up the pytree of gradients.
        tags: how retained leaves make up pytrees; `None` where `retain` was `None`.
    """

    pull: Any
    values: Any
    indices: Any
    function: str
    out: tuple[Any, ...]
    out_tree: Any
    tree: Any
    chosen: tuple[bool, ...]
    tags: tuple[_Tag, ...] | None

    def __call__(self, gradient: Any = None) -> Pulled:
        """The gradients of the primals for the output gradient `gradient`, a pytree like `out`.

        Without it the output must be a scalar, and its gradient is 1. Returns a tuple with the
        gradients of each primal, and with `retain` `(that tuple, retained)`.
        """
        with explained:
            leaves, retained = self.gradients(gradient)
        grads = gradients(self.tree, self.chosen, leaves, self.indices)
        result: Any = grads if self.tags is None else (grads, retained)
        return result

    def gradients(self, gradient: Any, share: Any = None) -> tuple[list[Any], dict[str, Retained]]:
        """The gradients of the leaves that take one, and what was retained; of a share of `out`."""
        seed = self._seed(gradient)
        if share is not None:
            seed = [x * jnp.asarray(share).astype(x.dtype) for x in seed]
        leaves, taps = self.pull(seed)
        if share is not None and any(x.dtype.itemsize < 4 for x in seed):
            leaves = [_refined(g, share, seed[0].dtype) for g in leaves]
        return conjugate(leaves), {
            tag.name: Retained(
                tag.tree.unflatten(self.values[tag.name]),
                tag.tree.unflatten(_finished(tag, taps[tag.name], self.values[tag.name])),
            )
            for tag in self.tags or ()
        }

    def _seed(self, gradient: Any) -> list[Any]:
        """The cotangents of the floating and complex output leaves, in JAX's convention."""
        if gradient is None:
            return [self._one()]
        like = scatter(
            self.out_tree, [*map(takes_gradient, self.out)], [*filter(takes_gradient, self.out)]
        )
        gradient = adopt_dtypes(gradient, like)
        wrong = differences(gradient, like)
        if wrong:
            raise TreeError(
                f"`{self.function}` got a `gradient` that does not fit the output; it has the"
                " output's structure, shapes and dtypes, and None at integer and bool leaves:\n  "
                + "\n  ".join(wrong)
            )
        return jax.tree.leaves(conjugate(gradient))

    def _one(self) -> Any:
        """The gradient 1 that a scalar output has where none is given."""
        if len(self.out) != 1 or self.out[0].size != 1:
            shown = ", ".join(map(describe, self.out)) or "nothing"
            raise GradientError(
                "grad can be implicitly created only for scalar outputs: "
                f"`{self.function}` got a function that returns {shown}; reduce it to one number"
                " (jnp.sum, jnp.mean), give the output's gradient (`gradient=`, for `vjp`"
                " `pullback(v)`), or, where the function returns (output, something else), say"
                " has_aux=True"
            )
        (out,) = self.out
        if not takes_gradient(out):
            raise GradientError(
                "element 0 of tensors does not require grad and does not have a grad_fn: "
                f"`{self.function}` got a function that returns {describe(out)}, and wants a"
                " floating one"
            )
        if jnp.issubdtype(out.dtype, jnp.complexfloating):
            raise GradientError(
                f"grad can be implicitly created only for real scalar outputs but got {out.dtype}: "
                f"give `{self.function}` the output's gradient, or return its real part"
            )
        return _jax.one(out)


def _refined(g: Any, share: Any, dtype: Any) -> Any:
    """A gradient of a share that was rounded to half precision, in which a third is off by 0.2%."""
    exact = jnp.asarray(share).astype(jnp.float32)
    rounded = exact.astype(dtype).astype(jnp.float32)
    factor = jnp.where(rounded == 0, jnp.ones_like(exact), exact / rounded)
    wide = jnp.float32 if g.dtype.itemsize < 4 else g.dtype
    return (g.astype(wide) * factor.astype(wide)).astype(g.dtype)


def _finished(tag: _Tag, taps: list[Any], values: list[Any]) -> list[Any]:
    """Retained gradients with the shardings of their values; taps are made without any.

    Statistics with their own dtypes: counts come as floating numbers.
    """
    grads = conjugate(taps)
    if tag.dtypes is not None:
        dtypes = iter(tag.dtypes)
        return jax.tree.map(lambda x: x.astype(next(dtypes)), grads)
    return [
        None if g is None else _jax.placed_like(g, jax.typeof(v))
        for g, v in zip(grads, values, strict=True)
    ]


@overload
def vjp(
    fun: Callable[[*Ts], R], *primals: *Ts, has_aux: Literal[False] = False, retain: None = None
) -> tuple[R, Pullback[GradsOfEach]]: ...
@overload
def vjp(
    fun: Callable[[*Ts], R], *primals: *Ts, has_aux: Literal[False] = False, retain: Names
) -> tuple[R, Pullback[tuple[GradsOfEach, RetainedByName]]]: ...
@overload
def vjp(
    fun: Callable[[*Ts], tuple[R, Aux]],
    *primals: *Ts,
    has_aux: Literal[True],
    retain: None = None,
) -> tuple[R, Pullback[GradsOfEach], Aux]: ...
@overload
def vjp(
    fun: Callable[[*Ts], tuple[R, Aux]], *primals: *Ts, has_aux: Literal[True], retain: Names
) -> tuple[R, Pullback[tuple[GradsOfEach, RetainedByName]], Aux]: ...
@overload
def vjp(
    fun: Callable[[*Ts], R], *primals: *Ts, has_aux: Literal[False] = False, retain: Retain
) -> tuple[R, Pullback[Any]]: ...
@overload
def vjp(
    fun: Callable[[*Ts], tuple[R, Aux]], *primals: *Ts, has_aux: bool, retain: Retain = None
) -> tuple[Any, ...]: ...
def vjp(
    fun: Callable[[*Ts], Any], *primals: *Ts, has_aux: bool = False, retain: Retain = None
) -> Any:
    """The output of `fun` and the function that pulls a gradient of it back to the inputs.

    Stands for `y = fun(x)` followed by `y.backward(gradient=v)`, any number of times: nothing is
    freed, so there is no `retain_graph`.

    Args:
        fun: a function of the primals, returning a pytree of arrays; with `has_aux` a pair of it
            and auxiliary data that is not differentiated.
        primals: where to evaluate; pytrees of arrays or numbers.
        has_aux: whether `fun` returns `(out, aux)`.
        retain: names of `retain_grad` whose values and gradients are wanted: a name, several,
            `fnmatch` patterns, `...` for all, `None` for nothing.

    Returns:
        `(out, pullback)`, or `(out, pullback, aux)`. `pullback(v)` takes a pytree like `out`, or
        nothing where `out` is one number, and returns a tuple with a gradient for each primal; with
        `retain`, `(that tuple, retained)`, a dict of `Retained(value, grad)`. Leaves that take no
        gradient (integers, bools, what is no array) get `None`; modules of Flax NNX are carried as
        `grad` carries them.

    Raises:
        GradientError: `pullback()` where `out` is not a single real number, or primals of which
            none takes a gradient, with no `retain`.
        TreeError: a gradient of another structure, shape or dtype than `out`.
        TagError: `retain` asks for a name that is not there, or a name was used twice.

    Differs from `jax.vjp`: complex gradients are PyTorch's, the conjugate of JAX's.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> out, pullback = fg.vjp(lambda x: x**3, jnp.arange(3.0))
    >>> pullback(jnp.ones(3))
    (Array([ 0.,  3., 12.], dtype=float32),)
    """
    _check_callable(fun, "vjp")
    retain = names_of(retain)
    with explained, carried(fun, primals, {}, "vjp") as carry:
        call = differentiated(carry.fun, carry.args, {}, range(len(primals)), "vjp")
        if retain is None:
            _check_any(call, "vjp")
        forward = _forward(call, "vjp", has_aux=has_aux, retain=retain)
        out, aux = carry.restore(forward.left)
    if has_aux:
        return out, forward.pullback, aux
    return out, forward.pullback


@overload
def grad(
    fun: Function[P, R], argnums: int | Sequence[int] = 0, **keywords: Unpack[Plain]
) -> Callable[P, Grads]: ...
@overload
def grad(
    fun: Function[P, R], argnums: int | Sequence[int] = 0, **keywords: Unpack[Named]
) -> Callable[P, tuple[Grads, RetainedByName]]: ...
@overload
def grad(
    fun: Function[P, tuple[R, Aux]],
    argnums: int | Sequence[int] = 0,
    **keywords: Unpack[WithAux],
) -> Callable[P, tuple[Grads, Aux]]: ...
@overload
def grad(
    fun: Function[P, tuple[R, Aux]],
    argnums: int | Sequence[int] = 0,
    **keywords: Unpack[WithAuxNamed],
) -> Callable[P, tuple[Grads, Aux, RetainedByName]]: ...
@overload
def grad(
    fun: Function[P, tuple[R, Aux]],
    argnums: int | Sequence[int] = 0,
    **keywords: Unpack[Either],
) -> Callable[P, Any]: ...
def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    has_aux: bool = False,
    gradient: Any = None,
    retain: Retain = None,
    requires_grad: Any = None,
    allow_unused: bool = True,
    materialize_grads: bool = True,
) -> Callable[..., Any]:
    """A function that returns the gradient of `fun`.

    Stands for `fun(x).backward()` and reading `x.grad`, and for `torch.autograd.grad`. Called as
    `jax.grad` is; the keywords that JAX does not have default to what changes nothing.

    Args:
        fun: a function returning one number, or with `gradient` a pytree of arrays; with `has_aux`
            a pair of it and auxiliary data.
        argnums: the positional argument, or arguments, to differentiate with respect to.
        has_aux: whether `fun` returns `(out, aux)`.
        gradient: the gradient of the output, a pytree like it: `y.backward(gradient)`.
        retain: names of `retain_grad` whose values and gradients are wanted: a name, several,
            `fnmatch` patterns, `...` for all, `None` for nothing.
        requires_grad: which leaves to differentiate: a pytree prefix of bools shaped like the
            argument (like the tuple of arguments where `argnums` is one), so a model of the same
            kind too; a predicate on `(key path, leaf)` or on the leaf; or a filter of Flax, such as
            `nnx.Param`. Nothing is computed for the others.
        allow_unused: whether a leaf may have no influence on the output; if not, that is an error.
        materialize_grads: zeros for leaves without influence; `None` for them if false.
            Influence is read off the derivative of the traced program: a leaf used only under
            `detach`, as an integer, or through functions whose derivative is zero everywhere has
            none; nor has one whose custom rule returns `None`. (For `sign` or `floor`, PyTorch
            counts the leaf as used.)

    Returns:
        A function of the arguments of `fun` that returns `grads`; `(grads, aux)` with `has_aux`;
        with `retain` a dict of `Retained(value, grad)` comes last: `(grads, retained)`,
        `(grads, aux, retained)`. `grads` is shaped like the argument (a tuple of them where
        `argnums` is one), with `None` at leaves that take no gradient: integers, bools, what is no
        array (a function, a string), and what `requires_grad` switches off. In the place of a
        module of Flax NNX it is an `nnx.State` of its parameters, as `nnx.grad` gives it; the
        state of every module among the arguments moves (statistics, dropout's counter).

    Raises:
        GradientError: the output is not one real number and `gradient` is not given, a leaf is
            unused against `allow_unused=False`, or no leaf at all is of a dtype that takes a
            gradient (and neither `requires_grad` nor `retain` says that none is meant to).
        TreeError: `gradient` or `requires_grad` does not fit.
        TagError: `retain` asks for a name that is not there, or a name was used twice.
        UsageError: `fun`, `argnums` or an argument is of the wrong type, or `fun` changes an object
            in place that it has a copy of, or closes over.

    Differs from `jax.grad`: complex gradients are PyTorch's, the conjugate of JAX's, so that
    `p - lr * grad` descends; an output of one element may have any number of axes; integers beside
    floating leaves give `None` instead of an error.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> fg.grad(lambda x: 2 * jnp.dot(x, x))(jnp.arange(4.0))
    Array([ 0.,  4.,  8., 12.], dtype=float32)
    >>> fg.grad(lambda x: x * x, gradient=jnp.ones(2))(jnp.arange(2.0))
    Array([0., 2.], dtype=float32)
    """
    transform = _gradient(
        "grad",
        fun,
        argnums,
        has_aux=has_aux,
        gradient=gradient,
        retain=retain,
        requires_grad=requires_grad,
        allow_unused=allow_unused,
        materialize_grads=materialize_grads,
    )

    def run(share: Any, *args: Any, **kwargs: Any) -> Any:
        result = transform(args, kwargs, share)
        parts = [result.grads]
        parts += [result.aux] if has_aux else []
        parts += [result.retained] if retain is not None else []
        return parts[0] if len(parts) == 1 else tuple(parts)

    @_wraps(fun, "grad")
    @explained
    def grad_fun(*args: Any, **kwargs: Any) -> Any:
        return run(None, *args, **kwargs)

    _SHARED[grad_fun] = Shared(run, 0 if has_aux or retain is not None else None)
    return grad_fun


@overload
def value_and_grad(
    fun: Function[P, R], argnums: int | Sequence[int] = 0, **keywords: Unpack[Plain]
) -> Callable[P, tuple[R, Grads]]: ...
@overload
def value_and_grad(
    fun: Function[P, R], argnums: int | Sequence[int] = 0, **keywords: Unpack[Named]
) -> Callable[P, tuple[R, Grads, RetainedByName]]: ...
@overload
def value_and_grad(
    fun: Function[P, tuple[R, Aux]],
    argnums: int | Sequence[int] = 0,
    **keywords: Unpack[WithAux],
) -> Callable[P, tuple[tuple[R, Aux], Grads]]: ...
@overload
def value_and_grad(
    fun: Function[P, tuple[R, Aux]],
    argnums: int | Sequence[int] = 0,
    **keywords: Unpack[WithAuxNamed],
) -> Callable[P, tuple[tuple[R, Aux], Grads, RetainedByName]]: ...
@overload
def value_and_grad(
    fun: Function[P, tuple[R, Aux]],
    argnums: int | Sequence[int] = 0,
    **keywords: Unpack[Either],
) -> Callable[P, Any]: ...
def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    has_aux: bool = False,
    gradient: Any = None,
    retain: Retain = None,
    requires_grad: Any = None,
    allow_unused: bool = True,
    materialize_grads: bool = True,
) -> Callable[..., Any]:
    """A function that returns the value of `fun` and its gradient, from one forward pass.

    Stands for `y = fun(x); y.backward()` and reading both `y` and `x.grad`. Arguments, errors and
    conventions are those of [`grad`][funcgrad.grad].

    Returns:
        A function that returns `(value, grads)`; `((value, aux), grads)` with `has_aux`; with
        `retain` a dict of `Retained(value, grad)` comes last: `(value, grads, retained)`,
        `((value, aux), grads, retained)`.

    >>> import jax.numpy as jnp, funcgrad as fg
    >>> fg.value_and_grad(lambda x: jnp.sum(x**2))(jnp.arange(3.0))
    (Array(5., dtype=float32), Array([0., 2., 4.], dtype=float32))
    """
    transform = _gradient(
        "value_and_grad",
        fun,
        argnums,
        has_aux=has_aux,
        gradient=gradient,
        retain=retain,
        requires_grad=requires_grad,
        allow_unused=allow_unused,
        materialize_grads=materialize_grads,
    )

    def run(share: Any, *args: Any, **kwargs: Any) -> Any:
        result = transform(args, kwargs, share)
        value = (result.value, result.aux) if has_aux else result.value
        if retain is None:
            return value, result.grads
        return value, result.grads, result.retained

    @_wraps(fun, "value_and_grad")
    @explained
    def value_and_grad_fun(*args: Any, **kwargs: Any) -> Any:
        return run(None, *args, **kwargs)

    _SHARED[value_and_grad_fun] = Shared(run, 1)
    return value_and_grad_fun


class Shared(NamedTuple):
    """A gradient function that takes a share, by which it multiplies the gradient of the output.

    Fields:
        run: a function of the share, or `None`, and of its arguments.
        place: where in its result the gradients are; `None` where they are all of it.
    """

    run: Callable[..., Any]
    place: int | None


_SHARED: weakref.WeakKeyDictionary[Any, Shared] = weakref.WeakKeyDictionary()


def shared(fun: Any) -> Shared | None:
    """What is known of a function that `grad` or `value_and_grad` returned, jitted or not."""
    if isinstance(fun, functools.partial):
        inner = shared(fun.func)
        if inner is None:
            return None

        def run(share: Any, *args: Any, **kwargs: Any) -> Any:
            return inner.run(share, *fun.args, *args, **{**fun.keywords, **kwargs})

        return Shared(run, inner.place)
    if isinstance(fun, _JITTED):
        return shared(fun.__wrapped__)  # type: ignore[attr-defined]
    return _SHARED.get(fun) if isinstance(fun, types.FunctionType) else None


_JITTED = type(jax.jit(shared))


class _Result(NamedTuple):
    value: Any
    aux: Any
    grads: Any
    retained: dict[str, Retained]


def _gradient(
    function: str,
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    *,
    has_aux: bool,
    gradient: Any,
    retain: Retain,
    requires_grad: Any,
    allow_unused: bool,
    materialize_grads: bool,
) -> Callable[[tuple[Any, ...], dict[str, Any], Any], _Result]:
    """What `grad` and `value_and_grad` share: everything but the arrangement of the result."""
    _check_callable(fun, function)
    several, found = read_argnums(
        argnums,
        function,
        advice=f"; arguments go into a second pair of parentheses: funcgrad.{function}(fun)(x)",
    )
    retain = names_of(retain)
    if several and isinstance(requires_grad, list):
        requires_grad = tuple(requires_grad)

    def transform(args: tuple[Any, ...], kwargs: dict[str, Any], share: Any) -> _Result:
        chosen = from_front(
            found,
            len(args),
            function,
            advice="; arguments passed by keyword are not differentiated, nor is what the function"
            " closes over",
        )
        with carried(fun, args, kwargs, function) as carry:
            call = differentiated(
                carry.fun,
                carry.args,
                carry.kwargs,
                chosen,
                function,
                several=several,
                requires_grad=requires_grad,
            )
            if retain is None and requires_grad is None:
                _check_any(call, function)
            tell_used = not (allow_unused and materialize_grads)
            forward = _forward(call, function, has_aux=has_aux, retain=retain, tell_used=tell_used)
            pullback = forward.pullback
            leaves, retained = pullback.gradients(gradient, share)
            out, aux = carry.restore(forward.left)
        if not all(forward.used):
            leaves = _unused(
                pullback,
                leaves,
                forward.used,
                allow_unused=allow_unused,
                materialize_grads=materialize_grads,
            )
        grads = gradients(pullback.tree, pullback.chosen, leaves, pullback.indices)
        return _Result(out, aux, grads, retained)

    return transform


def _unused(
    pullback: Pullback[Any],
    leaves: list[Any],
    used: Sequence[bool],
    *,
    allow_unused: bool,
    materialize_grads: bool,
) -> list[Any]:
    """The gradients with those of unused leaves refused, kept or replaced by `None`."""
    if not allow_unused:
        whole = scatter(pullback.tree, pullback.chosen, leaves)
        unused = [i for i, u in enumerate(used) if not u]
        paths = [path_of(whole, i) or "the argument" for i in unused]
        raise GradientError(
            f"The differentiated Tensor at index {unused[0]} appears to not have been used in the"
            " graph. Set allow_unused=True if this is the desired behavior.\n"
            f"`{pullback.function}` got an output that does not depend on {', '.join(paths)}, and"
            " wants it to; an input used only under `detach`, as an integer, or through functions"
            " whose derivative is zero everywhere (sign, floor, round) counts as unused"
        )
    if materialize_grads:
        return leaves
    return [leaf if u else None for leaf, u in zip(leaves, used, strict=True)]


class _Forward(NamedTuple):
    """One forward pass.

    Fields:
        left: what the function left, its result `(out, aux)`.
        pullback: pulls a gradient of `out` back.
        used: for each leaf that takes a gradient, whether `out` depends on it (true if not asked).
    """

    left: Left
    pullback: Pullback[Any]
    used: list[bool]


_SETTINGS = (
    "; a Python number that a module of Equinox holds is a setting and takes none, unless"
    " `requires_grad` asks for it: make it an array"
)


def _check_any(call: Call, function: str) -> None:
    """Refuses a call of which nothing takes a gradient, unless it has no leaves at all."""
    if not call.arrays and call.parts.rest:
        raise GradientError(
            "only Tensors of floating point and complex dtype can require gradients: "
            f"`{function}` got {', '.join(map(describe, call.parts.rest))} to differentiate with"
            " respect to, and wants a floating leaf among them; make it floating (3.0,"
            " jnp.arange(4.0), x.astype(jnp.float32)), or name another argument with argnums="
            + _SETTINGS
            * any(settings(call.whole))
        )


def _forward(
    call: Call, function: str, *, has_aux: bool, retain: Retain, tell_used: bool = False
) -> _Forward:
    def flat(leaves: list[Any]) -> tuple[Any, Any]:
        left = call.run(leaves)
        out, aux = _pair(left.result, function) if has_aux else (left.result, None)
        return out, (aux, left.objects)

    if retain is None and not tell_used:
        program = plain(flat, call.arrays, function)
    else:
        program = traced(flat, call.arrays, function, retain, tell_used)
    try:
        passed = jax.vjp(program.run, call.arrays, program.taps, has_aux=True)
    except jax.errors.UnexpectedTracerError as error:
        if not (where := program.rules()):
            raise
        raise GradientError(
            f"`{function}` got a function with a custom rule, at {where}, that uses a value"
            " which was traced before the rule is: one in `nondiff_argnums` that is computed, or"
            " one that the rule closes over. Names (`retain`) and unused inputs (`allow_unused`,"
            " `materialize_grads`) are found in a traced program, as under `jax.jit`, where JAX has"
            " no such rules: let the value be an ordinary argument, for which the rule gives no"
            " tangent (`custom_jvp`) or None (`custom_vjp`)"
        ) from error
    _, pull, ((out, rest), values) = passed
    aux, objects = rest
    out_leaves, out_tree = jax.tree.flatten(out)
    pullback: Pullback[Any] = Pullback(
        pull=pull,
        values=values,
        indices=indices(call.whole, call.parts),
        function=function,
        out=tuple(map(jax.typeof, out_leaves)),
        out_tree=out_tree,
        tree=call.parts.tree,
        chosen=call.parts.chosen,
        tags=None if retain is None else tuple(_tag(*each) for each in program.asked.items()),
    )
    return _Forward(Left(objects, (out, aux)), pullback, program.used)


def _tag(name: str, asked: Request) -> _Tag:
    site, watch = asked
    return _Tag(name, site.tree, None if watch is None else watch.dtypes(site))


def _pair(result: Any, function: str) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise UsageError(
            f"`{function}` got has_aux=True and a function that returns {describe(result)}, and"
            " wants one that returns a pair (output, auxiliary data)"
        )
    refuse_iterators(result, function)
    return result


def _check_callable(fun: Any, function: str) -> None:
    if not callable(fun):
        raise UsageError(
            f"`{function}` got {describe(fun)}, and wants a function: there is no tensor to call"
            f" backward on; write funcgrad.{function} of the function that computes it"
        )


def _wraps(fun: Any, function: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Names the result after `fun`, and keeps its docstring and signature."""

    def wrap(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        wrapper = functools.wraps(fun)(wrapper)
        wrapper.__name__ = f"{function}_{getattr(fun, '__name__', 'function')}"
        return wrapper

    return wrap
