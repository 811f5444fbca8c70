"""Measures one training step over micro-batches: `python -m funcgrad.bench.accumulation`.

Every contender takes the same step: the gradient of a multilayer perceptron's loss over a batch in
`MICROBATCHES` parts, then Adam, from donated parameters and moments. Their results are compared
before anything is timed. Then they run in turn, and each is waited for. Times are of one device;
the ratio to the scan by hand, a median of ratios taken in one round, is the figure to quote.
Temporary memory is the compiler's own count. Collectives are those of the same step compiled for
eight devices, with replicated parameters and an eighth of the rows on each: how many a step, and
how many bytes each device gets from them.
"""

import argparse
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding

import funcgrad as fg

from ._timer import interleaved, table
from .program import collectives

MICROBATCHES, ROWS, WIDTH, LAYERS = 16, 32, 512, 3
DEVICES = 8
RATE, DECAYS, EPSILON = 1e-3, (0.9, 0.999), 1e-8

Step = Callable[[Any, Any, Any], tuple[Any, Any, Any]]


class Contender(NamedTuple):
    """One way to take the step.

    Fields:
        name: how it is called in the table.
        take: advances by one step from the state it holds, waits, and returns the loss.
        weights: the parameters it holds, as NumPy arrays.
        memory: the megabytes of temporary memory, or "-" where nothing counts them.
        moved: how many collectives a step has on eight devices, and their megabytes, or "-".
    """

    name: str
    take: Callable[[], float]
    weights: Callable[[], list[np.ndarray]]
    memory: str
    moved: tuple[str, str]


def data() -> tuple[list[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The parameters and the batch, the same for every contender."""
    draw = np.random.default_rng(0).standard_normal
    weights = [draw((WIDTH, WIDTH), np.float32) / WIDTH**0.5 for _ in range(LAYERS)]
    rows = MICROBATCHES * ROWS
    return weights, (draw((rows, WIDTH), np.float32), draw((rows, WIDTH), np.float32))


def loss(weights: list[Any], batch: tuple[Any, Any]) -> Any:
    """The mean square error of the perceptron, in jax.numpy."""
    x, y = batch
    for weight in weights[:-1]:
        x = jnp.tanh(x @ weight)
    return jnp.mean((x @ weights[-1] - y) ** 2)


class Adam(NamedTuple):
    """The moments of Adam, in the order of the parameters, and the number of steps taken."""

    count: Any
    first: list[Any]
    second: list[Any]


def adam(weights: list[Any], state: Adam, gradients: list[Any]) -> tuple[list[Any], Adam]:
    """One step of Adam: Kingma and Ba, https://arxiv.org/abs/1412.6980."""
    mix = lambda decay, old, new: [decay * a + (1 - decay) * b for a, b in zip(old, new)]  # noqa: B905,E731
    first = mix(DECAYS[0], state.first, gradients)
    second = mix(DECAYS[1], state.second, [g * g for g in gradients])
    count = state.count + 1
    unbiased = [1 - decay ** count.astype(jnp.float32) for decay in DECAYS]
    moved = [
        w - RATE * (m / unbiased[0]) / (jnp.sqrt(v / unbiased[1]) + EPSILON)
        for w, m, v in zip(weights, first, second, strict=True)
    ]
    return moved, Adam(count, first, second)


def fresh(weights: list[Any]) -> Adam:
    """The moments before the first step."""
    return Adam(jnp.int32(0), *([jnp.zeros_like(w) for w in weights] for _ in range(2)))


def by_gradient(gradient: Callable[[Any, Any], tuple[Any, Any]]) -> Step:
    """The step that applies Adam to what `gradient` returns: the loss and the gradients."""

    def step(weights: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        value, gradients = gradient(weights, batch)
        return *adam(weights, state, gradients), value

    return step


Split = Callable[[Any], Any]


def in_a_row(x: Any) -> Any:
    """Rows in micro-batches of consecutive ones, with an axis of micro-batches in front."""
    return x.reshape(MICROBATCHES, -1, *x.shape[1:])


def dealt_out(x: Any) -> Any:
    """Rows in micro-batches of every so many, which leaves those that devices share in place."""
    return x.reshape(-1, MICROBATCHES, *x.shape[1:]).swapaxes(0, 1)


def scan_by_hand(split: Split, weights: Any, batch: Any) -> tuple[Any, Any]:
    """What one writes without a library: a sum in the carry of a scan, divided at the end."""

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(weights, part)), None

    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, weights)
    total, _ = lax.scan(add, zeros, jax.tree.map(split, batch))
    return jax.tree.map(lambda r: r / MICROBATCHES, total)


def accumulated(split: Split, weights: Any, batch: Any) -> tuple[Any, Any]:
    """The loop in PyTorch's shape: `zero_grad`, then `accumulate_grad` for every part."""

    def add(acc: Any, part: Any) -> tuple[Any, None]:
        return fg.accumulate_grad(acc, fg.value_and_grad(loss)(weights, part)), None

    acc, _ = lax.scan(add, fg.zero_grad((jnp.zeros(()), weights)), jax.tree.map(split, batch))
    return jax.tree.map(lambda r: r / MICROBATCHES, acc)


def jax_contenders(mesh: Any) -> Iterator[Contender]:
    """Those that need JAX alone."""

    def step(by: Callable[..., Any], split: Split) -> Step:
        return by_gradient(functools.partial(by, split))

    micro = functools.partial(fg.microbatch, jax.value_and_grad(loss), MICROBATCHES)
    on_mesh = by_gradient(micro(mesh=mesh, batch_axis="data"))
    yield compiled("funcgrad.microbatch", by_gradient(micro()), mesh, on_mesh)
    for name, by in (("lax.scan by hand", scan_by_hand), ("accumulate_grad", accumulated)):
        yield compiled(name, step(by, in_a_row), mesh, step(by, dealt_out))
    whole = by_gradient(jax.value_and_grad(loss))
    yield compiled("the whole batch at once", whole, mesh, whole)


def optax_contenders(mesh: Any) -> Iterator[Contender]:
    """`optax.MultiSteps` over the parts, and `optax.microbatching`."""
    import optax

    many = optax.MultiSteps(optax.adam(RATE, *DECAYS, EPSILON), MICROBATCHES)

    def multi(split: Split, weights: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        def one(carry: Any, part: Any) -> tuple[Any, Any]:
            weights, state = carry
            value, gradients = jax.value_and_grad(loss)(weights, part)
            updates, state = many.update(gradients, state, weights)
            return (optax.apply_updates(weights, updates), state), value

        (weights, state), values = lax.scan(one, (weights, state), jax.tree.map(split, batch))
        return weights, state, jnp.mean(values)

    steps = (functools.partial(multi, split) for split in (in_a_row, dealt_out))
    yield compiled("optax.MultiSteps", next(steps), mesh, next(steps), start=many.init)

    def micro(rows: int) -> Step:
        mean = optax.microbatching.AccumulationType.MEAN
        return by_gradient(optax.microbatching.microbatch(jax.value_and_grad(loss), 1, rows, mean))

    # It counts rows of a micro-batch over all devices, so that eight of them have eight times more.
    yield compiled("optax.microbatching", micro(ROWS), mesh, micro(ROWS * DEVICES))


def compiled(
    name: str, step: Step, mesh: Any, on_mesh: Step, start: Callable[[Any], Any] = fresh
) -> Contender:
    """A contender from a step in JAX, compiled ahead of time with its state donated."""
    weights, batch = jax.tree.map(jnp.asarray, data())
    state = [weights, start(weights)]
    program = jax.jit(step, donate_argnums=(0, 1)).lower(*state, batch).compile()

    def take() -> float:
        state[0], state[1], value = program(*state, batch)
        jax.block_until_ready(state)
        return float(value)

    memory = program.memory_analysis().temp_size_in_bytes
    weights = lambda: [np.asarray(w) for w in state[0]]  # noqa: E731
    return Contender(name, take, weights, f"{memory / 1e6:.2f}", moved(on_mesh, start, mesh))


def moved(step: Step, start: Callable[[Any], Any], mesh: Any) -> tuple[str, str]:
    """The collectives of a step on the mesh, with as many rows on each device as one has alone."""

    def like(x: Any, spec: Any, times: int) -> Any:
        shape = (x.shape[0] * times, *x.shape[1:]) if times > 1 else x.shape
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, spec))

    weights, batch = jax.tree.map(jnp.asarray, data())
    held = jax.tree.map(lambda x: like(x, jax.P(), 1), (weights, jax.eval_shape(start, weights)))
    batch = jax.tree.map(lambda x: like(x, jax.P("data"), DEVICES), batch)
    text = jax.jit(step, donate_argnums=(0, 1)).lower(*held, batch).compile().as_text()
    inside = [c.bytes for c in collectives(text) if c.looped]
    after = [c.bytes for c in collectives(text) if not c.looped]
    count = f"{MICROBATCHES} x {len(inside)} + {len(after)}" if inside else str(len(after))
    return count, f"{(MICROBATCHES * sum(inside) + sum(after)) / 1e6:.2f}"


def torch_contenders() -> Iterator[Contender]:
    """PyTorch's loop over chunks, eager and with the loss compiled."""
    # Threads of OpenMP that spin while they wait cost it tenfold on a machine that does other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    def torch_loss(weights: list[Any], x: Any, y: Any) -> Any:
        for weight in weights[:-1]:
            x = torch.tanh(x @ weight)
        return ((x @ weights[-1] - y) ** 2).mean()

    def contender(name: str, loss: Callable[..., Any]) -> Contender:
        arrays, batch = data()
        weights = [torch.tensor(a, requires_grad=True) for a in arrays]
        optimizer = torch.optim.Adam(weights, RATE, DECAYS, EPSILON)
        chunks = [torch.tensor(a).chunk(MICROBATCHES) for a in batch]

        def take() -> float:
            total = 0.0
            for x, y in zip(*chunks, strict=True):
                value = loss(weights, x, y) / MICROBATCHES
                value.backward()
                total += float(value.detach())
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return total

        return Contender(name, take, lambda: [w.detach().numpy() for w in weights], "-", ("-", "-"))

    yield contender("PyTorch, eager", torch_loss)
    yield contender("PyTorch, torch.compile", torch.compile(torch_loss))


def agree(contenders: list[Contender]) -> None:
    """Takes one step with each, and raises where the results are not the same to rounding."""
    first, *others = contenders
    value, weights = first.take(), first.weights()
    for other in others:
        np.testing.assert_allclose(other.take(), value, rtol=1e-5, err_msg=other.name)
        for ours, theirs in zip(weights, other.weights(), strict=True):
            # A first step of Adam moves each weight by RATE; where it moves is what must agree.
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=RATE / 20, err_msg=other.name)


def entered(make: Callable[[], Iterator[Contender]], missing: list[str]) -> list[Contender]:
    """The contenders of a library, or none and a line that says what is not installed."""
    try:
        return list(make())
    except ImportError as error:
        missing.append(f"not installed: {error.name}")
        return []


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Measures a training step over micro-batches.")
    parser.add_argument("--rounds", type=int, default=30, help="how often each one runs")
    rounds = parser.parse_args(argv).rounds
    jax.config.update("jax_num_cpu_devices", DEVICES)
    mesh = jax.make_mesh((DEVICES,), ("data",), (AxisType.Auto,), devices=jax.devices("cpu"))
    missing: list[str] = []
    makes = [lambda: jax_contenders(mesh), lambda: optax_contenders(mesh), torch_contenders]
    contenders = [one for make in makes for one in entered(make, missing)]
    agree(contenders)
    times = interleaved({one.name: one.take for one in contenders}, rounds)
    hand = times["lax.scan by hand"]
    rows = [
        ("", "median ms", "least ms", "ratio", "temporary MB", "collectives", "MB moved"),
        *(
            (
                one.name,
                f"{1e3 * times[one.name].median:.2f}",
                f"{1e3 * times[one.name].minimum:.2f}",
                f"{times[one.name].ratio(hand):.3f}",
                one.memory,
                *one.moved,
            )
            for one in contenders
        ),
    ]
    megabytes = 4 * LAYERS * WIDTH**2 / 1e6
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {rounds} rounds")
    print(f"{MICROBATCHES} micro-batches of {ROWS} rows, {megabytes:.2f} MB of parameters\n")
    print(table(rows))
    print("\n".join(missing))


if __name__ == "__main__":
    main()
