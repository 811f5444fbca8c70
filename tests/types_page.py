"""A user's code. Each comment says what mypy and pyright make of its line: a type, or errors."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, reveal_type

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg
from funcgrad import conventions

T = TypeVar("T")
x = jnp.arange(3.0)


def loss(x: jax.Array, scale: float = 1.0) -> jax.Array:
    return scale * jnp.sum(fg.retain_grad(x * x, "square"))


def with_note(x: jax.Array) -> tuple[jax.Array, str]:
    return loss(x), "a note"


class Model:
    def __call__(self, x: jax.Array) -> jax.Array:
        return loss(x)


# A gradient is a pytree like the argument, with None at what takes none: Any says no more.
reveal_type(fg.grad(loss))  # (x: Array, scale: float = ...) -> Any
reveal_type(fg.grad(loss, retain="square")(x))  # tuple[Any, dict[str, Retained]]
reveal_type(fg.grad(with_note, has_aux=True)(x))  # tuple[Any, str]
both = fg.grad(with_note, has_aux=True, retain=...)(x)
reveal_type(both)  # tuple[Any, str, dict[str, Retained]]
reveal_type(fg.grad(loss, (0, 1), gradient=None, allow_unused=False)(x, 2.0))  # Any

reveal_type(fg.value_and_grad(loss))  # (x: Array, scale: float = ...) -> tuple[Array, Any]
three = fg.value_and_grad(loss, retain=["square"])(x)
reveal_type(three)  # tuple[Array, Any, dict[str, Retained]]
reveal_type(fg.value_and_grad(with_note, has_aux=True)(x))  # tuple[tuple[Array, str], Any]
all_of_it = fg.value_and_grad(with_note, has_aux=True, retain=("square",))(x)
reveal_type(all_of_it)  # tuple[tuple[Array, str], Any, dict[str, Retained]]

reveal_type(three[2]["square"].value)  # Any
value, grads, retained = fg.value_and_grad(loss)(x)  # error: misc reportAssignmentType
value, grads = fg.value_and_grad(loss, retain="square")(x)  # error: misc reportAssignmentType
fg.grad(loss)(x, 1.0, 2.0)  # error: call-arg reportCallIssue
fg.grad(loss)(x, size=1.0)  # error: call-arg reportCallIssue
fg.grad(loss)("x")  # error: arg-type reportArgumentType
fg.grad(loss, has_aux=True)  # error: arg-type reportArgumentType reportCallIssue
fg.grad(loss, alow_unused=False)  # error: call-overload reportCallIssue
fg.grad(3.0)  # error: call-overload reportArgumentType

# What is a function: a model, a lambda, what JAX or `functools` return, what has no type.
reveal_type(fg.value_and_grad(Model()))  # (x: Array) -> tuple[Array, Any]
reveal_type(fg.grad(lambda x: (x * x, "x"), has_aux=True)(2.0))  # tuple[Any, str]
reveal_type(fg.value_and_grad(fg.grad(lambda x: x**3))(2.0))  # tuple[Any, Any]
jax.jit(fg.grad(lambda x: x * x))(2.0)
jax.vmap(fg.value_and_grad(lambda x: x * x))(x)
fg.grad(jax.jit(loss))(x)
fg.grad(functools.partial(loss, scale=2.0))(x)


@functools.partial(fg.grad, argnums=1)
def slope(x: jax.Array, scale: float) -> jax.Array:
    return loss(x, scale)


def unknown(fun: Any, has_aux: bool, retain: str | None) -> None:
    reveal_type(fg.grad(fun, retain="square")(x))  # tuple[Any, dict[str, Retained]]
    reveal_type(fg.grad(with_note, has_aux=has_aux)(x))  # Any
    reveal_type(fg.vjp(loss, x, retain=retain)[0])  # Array
    reveal_type(fg.vjp(with_note, x, has_aux=has_aux))  # tuple[Any, ...]


# `vjp` holds the primals against the parameters.
out, pullback = fg.vjp(loss, x, 2.0)
reveal_type(out)  # Array
reveal_type(pullback)  # Pullback[tuple[Any, ...]]
reveal_type(pullback(out))  # tuple[Any, ...]
reveal_type(fg.vjp(with_note, x, has_aux=True))  # tuple[Array, Pullback[tuple[Any, ...]], str]
_, retaining = fg.vjp(loss, x, retain="square")
reveal_type(retaining())  # tuple[tuple[Any, ...], dict[str, Retained]]
_, retaining, aux = fg.vjp(with_note, x, has_aux=True, retain="square")
reveal_type(retaining())  # tuple[tuple[Any, ...], dict[str, Retained]]
reveal_type(aux)  # str
reveal_type(fg.vjp(lambda x, y: x * y, 2.0, 3.0)[1]())  # tuple[Any, ...]
fg.vjp(loss, x, 2.0, 3.0)  # error: call-arg arg-type reportArgumentType
out, pullback, aux = fg.vjp(loss, x)  # error: misc reportAssignmentType
first, second = pullback(out)  # a tuple of any length

# Tags and stops return what they are given.
reveal_type(fg.retain_grad(x, "x"))  # Array
reveal_type(fg.register_hook({"w": x}, lambda g: {"w": 2 * g["w"]}))  # dict[str, Array]
reveal_type(fg.detach((x, [x])))  # tuple[Array, list[Array]]
reveal_type(fg.stop_gradient(x))  # Array
reveal_type(fg.set_data(x, 2 * x))  # Array
reveal_type(fg.no_grad(loss))  # (x: Array, scale: float = ...) -> Array
fg.detatch(x)  # error: attr-defined reportAttributeAccessIssue
fg.retain_grad(x)  # error: call-arg reportCallIssue


@fg.no_grad()
def frozen(x: jax.Array) -> jax.Array:
    return 2 * x


@fg.autograph
def one(x: T) -> T:
    return x


@fg.autograph(max_steps=3)
def doubled(x: jax.Array, *, limit: float) -> jax.Array:
    while jnp.sum(x) < limit:
        x = 2 * x
    return x


class Doubler:
    @fg.autograph(max_steps=3)
    def double(self, x: jax.Array) -> jax.Array:
        return doubled(x, limit=5.0)


reveal_type(frozen)  # (x: Array) -> Array
reveal_type(one(x))  # Array
reveal_type(doubled)  # (x: Array, *, limit: float) -> Array
reveal_type(Doubler().double(x))  # Array
reveal_type(fg.autograph(loss))  # (x: Array, scale: float = ...) -> Array
reveal_type(fg.value_and_grad(doubled, gradient=x)(x, limit=5.0))  # tuple[Array, Any]
doubled(x)  # error: call-arg reportCallIssue
doubled(x, limit="5")  # error: arg-type reportArgumentType
fg.autograph(loss, max_step=3)  # error: call-overload reportCallIssue

# What is inside a function keeps its call.
captured = fg.capture(loss, "square")
reveal_type(captured)  # (x: Array, scale: float = ...) -> tuple[Array, dict[str, Any]]
reveal_type(fg.capture(Model(), ...)(x))  # tuple[Array, dict[str, Any]]
patched = fg.with_hooks(loss, forward={"square": jnp.sin})
reveal_type(patched)  # (x: Array, scale: float = ...) -> Array
reveal_type(fg.with_hooks(Model(), backward={...: [lambda g: 2 * g]})(x))  # Array
asked = {"square": fg.watch(grad={"max": jnp.max}), "sq*": ...}
reveal_type(fg.grad(loss, retain=asked)(x))  # tuple[Any, dict[str, Retained]]
fg.capture(loss)  # error: call-arg reportCallIssue
fg.capture(3.0, "x")  # error: arg-type reportArgumentType
fg.with_hooks(loss, forward={"square": 3})  # error: dict-item reportArgumentType
fg.with_hooks(loss)("x")  # error: arg-type reportArgumentType

# Loops return a carry.
reveal_type(fg.while_loop(lambda x: jnp.sum(x) < 9, lambda x: 2 * x, x, max_steps=9))  # Array
reveal_type(fg.fori_loop(0, 3, lambda i, carry: (carry[1], x), (x, x)))  # tuple[Array, Array]
fg.while_loop(bool, jnp.sin, x)  # error: call-arg reportCallIssue

# Wrappers keep parameters and result.
reveal_type(fg.detect_anomaly(with_note))  # (x: Array) -> tuple[Array, str]
checked = fg.detect_anomaly(fg.value_and_grad(with_note, has_aux=True))
reveal_type(checked)  # (x: Array) -> tuple[tuple[Array, str], Any]
reveal_type(fg.save_on_cpu(loss))  # (x: Array, scale: float = ...) -> Array
hooked = fg.saved_tensors_hooks(loss, lambda x: x.astype(jnp.bfloat16), lambda p: p.astype(float))
reveal_type(hooked)  # (x: Array, scale: float = ...) -> Array
step = fg.microbatch(fg.value_and_grad(loss), 3, batch_argnums=0)
reveal_type(step)  # (x: Array, scale: float = ...) -> tuple[Array, Any]
step(x, 1.0, 2.0)  # error: call-arg reportCallIssue
fg.detect_anomaly(loss, mode="fast")  # error: arg-type reportArgumentType
fg.microbatch(loss)  # error: call-arg reportCallIssue

# Accumulators are as gradients are.
acc = fg.zero_grad({"w": x})
reveal_type(acc)  # Any
reveal_type(fg.accumulate_grad(acc, fg.grad(lambda p: jnp.sum(p["w"]))({"w": x})))  # Any

# Functions of arrays return arrays.
reveal_type(conventions.abs(0.0))  # Array
reveal_type(fg.conventions.norm(x, ord=2))  # Array
reveal_type(conventions.max(np.ones((2, 3)), axis=0))  # Array
reveal_type(conventions.sort(x, descending=True))  # Array
conventions.abs([1.0, 2.0])  # error: arg-type reportArgumentType
conventions.abs(x, x)  # error: call-arg reportCallIssue
conventions.arcsin(x)  # error: attr-defined reportAttributeAccessIssue

# What is imported when it is first used.
reveal_type(fg.gradcheck(loss, (x,)))  # bool
reveal_type(fg.saved_tensors(loss, x))  # SavedTensors
reveal_type(fg.disconnected(loss, x))  # Disconnected
reveal_type(fg.graph(loss, x))  # Picture
reveal_type(fg.compiled(loss, x, target="cpu"))  # Compiled
fg.gradchek(loss, (x,))  # error: attr-defined reportAttributeAccessIssue
fg.compare.with_toch(loss, loss)  # error: attr-defined reportAttributeAccessIssue
fg.bench.main()  # error: attr-defined reportAttributeAccessIssue


def tools() -> list[Callable[..., Any]]:
    return [fg.launch.connect, fg.gradgradcheck, fg.compare.with_torch]


try:
    fg.detect_anomaly(loss)(x)
except fg.AnomalyError as error:
    reveal_type(error)  # AnomalyError
