"""Programs with one planted NaN each, and what there is to say about it.

The line that is to be named ends in the comment `NaN`; it is always a forward line. The twin of a
program is the same computation in PyTorch, where that has it, ending in the same comment; it runs
its backward pass. `python tests/anomaly_table.py` asks PyTorch and JAX about them too.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

import funcgrad as fg


class Program(NamedTuple):
    """One program.

    Fields:
        name: of the function below that makes it.
        says: what is wrong with it.
        make: gives a function and its arguments.
        phase, steps, examples: what `Anomaly` should hold.
        twin: the same in PyTorch, a function of the module `torch`, or `None`.
    """

    name: str
    says: str
    make: Callable[[], Any]
    phase: str
    steps: tuple[int, ...]
    examples: tuple[int | None, ...]
    twin: Callable[[Any], Any] | None

    @property
    def line(self) -> int:
        """The line to be named."""
        return marked(self.make)


def marked(fun):
    """The number of the line of `fun` that ends in the comment `NaN`."""
    lines, start = inspect.getsourcelines(fun)
    (place,) = [i for i, line in enumerate(lines) if line.rstrip().endswith("# NaN")]
    return start + place


PROGRAMS: list[Program] = []


def planted(says, phase, steps=(), examples=()):
    def add(make):
        PROGRAMS.append(Program(make.__name__, says, make, phase, steps, examples, None))
        return make

    return add


def twin(make):
    def add(fun):
        (index,) = [i for i, p in enumerate(PROGRAMS) if p.make is make]
        PROGRAMS[index] = PROGRAMS[index]._replace(twin=fun)
        return fun

    return add


# Forward.


@planted("log of a negative number", "forward")
def log_negative():
    def f(x):
        y = x * 2
        return jnp.sum(jnp.log(y))  # NaN

    return jax.jit(f), (jnp.array([1.0, -1.0, 2.0]),)


@twin(log_negative)
def _(torch):
    x = torch.tensor([1.0, -1.0, 2.0], requires_grad=True)
    y = x * 2
    torch.log(y).sum().backward()  # NaN


@planted("a row of zeros normalized: 0 / 0", "forward")
def zero_by_zero():
    def f(x):
        total = jnp.sum(x, axis=1, keepdims=True)
        return jnp.sum(x / total)  # NaN

    return f, (jnp.array([[1.0, 3.0], [0.0, 0.0]]),)


@twin(zero_by_zero)
def _(torch):
    x = torch.tensor([[1.0, 3.0], [0.0, 0.0]], requires_grad=True)
    total = x.sum(1, keepdim=True)
    (x / total).sum().backward()  # NaN


@planted("a variance that rounding made negative, under sqrt", "forward")
def negative_variance():
    def f(x):
        variance = jnp.mean(x * x) - jnp.mean(x) ** 2 - 1e-3
        return jnp.sqrt(variance)  # NaN

    return jax.jit(f), (jnp.full(8, 3.0),)


@twin(negative_variance)
def _(torch):
    x = torch.full((8,), 3.0, requires_grad=True)
    variance = (x * x).mean() - x.mean() ** 2 - 1e-3
    variance.sqrt().backward()  # NaN


@planted("the difference of two logarithms of 0: inf - inf", "forward")
def difference_of_infinities():
    def f(p, q):
        ratio = jnp.log(p) - jnp.log(q)  # NaN
        return jnp.sum(ratio)

    return f, (jnp.array([0.5, 0.0]), jnp.array([0.5, 0.0]))


@twin(difference_of_infinities)
def _(torch):
    p = torch.tensor([0.5, 0.0], requires_grad=True)
    q = torch.tensor([0.5, 0.0], requires_grad=True)
    ratio = p.log() - q.log()  # NaN
    ratio.sum().backward()


@planted("an entropy with a probability of 0: 0 * log(0)", "forward")
def entropy():
    def f(p):
        logs = jnp.log(p)
        return -jnp.sum(p * logs)  # NaN

    return jax.jit(f), (jnp.array([0.5, 0.5, 0.0]),)


@twin(entropy)
def _(torch):
    p = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    logs = p.log()
    (-(p * logs).sum()).backward()  # NaN


@planted("cross entropy of a softmax that underflows to 0: 0 * log(0)", "forward")
def cross_entropy():
    def f(logits, labels):
        p = jax.nn.softmax(logits)
        logs = jnp.log(p)
        return -jnp.mean(labels * logs)  # NaN

    return jax.grad(f), (jnp.array([[0.0, -200.0]]), jnp.array([[1.0, 0.0]]))


@twin(cross_entropy)
def _(torch):
    logits = torch.tensor([[0.0, -200.0]], requires_grad=True)
    p = torch.softmax(logits, 1)
    logs = p.log()
    (-(torch.tensor([[1.0, 0.0]]) * logs).mean()).backward()  # NaN


@planted("softmax of a row that is masked out whole", "forward")
def masked_softmax():
    def attention(scores, mask):
        masked = jnp.where(mask, scores, -jnp.inf)
        return jax.nn.softmax(masked, axis=-1)  # NaN

    mask = jnp.array([[True, True], [False, False]])
    return jax.jit(attention), (jnp.ones((2, 2)), mask)


@twin(masked_softmax)
def _(torch):
    scores = torch.ones(2, 2, requires_grad=True)
    mask = torch.tensor([[True, True], [False, False]])
    masked = scores.masked_fill(~mask, -torch.inf)
    torch.softmax(masked, -1).sum().backward()  # NaN


@planted("a negative number to a fractional power", "forward")
def fractional_power():
    def f(x):
        return jnp.sum(x ** (1.0 / 3.0))  # NaN

    return f, (jnp.array([8.0, -8.0]),)


@twin(fractional_power)
def _(torch):
    x = torch.tensor([8.0, -8.0], requires_grad=True)
    (x ** (1.0 / 3.0)).sum().backward()  # NaN


@planted("arccos of a number that rounding put above 1", "forward")
def arccos_outside():
    def angle(a, b):
        cosine = jnp.dot(a, b) * 1.0001
        return jnp.arccos(cosine)  # NaN

    return jax.jit(angle), (jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))


@twin(arccos_outside)
def _(torch):
    a = torch.tensor([1.0, 0.0], requires_grad=True)
    cosine = torch.dot(a, torch.tensor([1.0, 0.0])) * 1.0001
    torch.arccos(cosine).backward()  # NaN


@planted("float16 overflows to inf, and inf / inf", "forward")
def half_overflow():
    def f(x):
        squared = x * x
        return squared / jnp.sum(squared)  # NaN

    return jax.jit(f), (jnp.array([300.0, 1.0], jnp.float16),)


@twin(half_overflow)
def _(torch):
    x = torch.tensor([300.0, 1.0], dtype=torch.float16, requires_grad=True)
    squared = x * x
    (squared / squared.sum()).sum().backward()  # NaN


@planted("an index past the end, which JAX fills with NaN", "forward")
def out_of_bounds():
    def f(table, index):
        rows = table.at[index].get(mode="fill")  # NaN
        return jnp.sum(rows)

    return jax.jit(f), (jnp.ones((4, 2)), jnp.array([0, 7]))


@twin(out_of_bounds)
def _(torch):
    table = torch.ones(4, 2, requires_grad=True)
    table[torch.tensor([0, 7])].sum().backward()  # NaN


@planted("Cholesky of a matrix that is not positive definite", "forward")
def cholesky():
    def f(a):
        factor = jnp.linalg.cholesky(a)  # NaN
        return jnp.sum(jnp.log(jnp.diagonal(factor)))

    return jax.jit(f), (jnp.array([[1.0, 2.0], [2.0, 1.0]]),)


@twin(cholesky)
def _(torch):
    a = torch.tensor([[1.0, 2.0], [2.0, 1.0]], requires_grad=True)
    factor = torch.linalg.cholesky(a)  # NaN
    torch.log(torch.diagonal(factor)).sum().backward()


@planted("a complex 0 / 0", "forward")
def complex_zero_by_zero():
    def f(z):
        w = z / jnp.conj(z)  # NaN
        return jnp.sum(jnp.real(w))

    return fg.grad(f), (jnp.array([1 + 1j, 0j]),)


@twin(complex_zero_by_zero)
def _(torch):
    z = torch.tensor([1 + 1j, 0j], requires_grad=True)
    w = z / torch.conj(z)  # NaN
    torch.real(w).sum().backward()


@planted("a NaN that the program holds as a constant", "forward")
def constant():
    table = np.array([1.0, np.nan], np.float32)

    def f(x):
        return jnp.sum(x * table)  # NaN

    return jax.jit(f), (jnp.ones(2),)


@twin(constant)
def _(torch):
    table = torch.tensor([1.0, torch.nan])
    x = torch.ones(2, requires_grad=True)
    (x * table).sum().backward()  # NaN


@planted("a loop that would go on after max_steps", "forward")
def too_many_steps():
    def f(x):
        return fg.while_loop(lambda b: b < 1000, lambda b: 2 * b, x, max_steps=5)  # NaN

    return jax.jit(jax.grad(f)), (jnp.array(1.0),)


# Backward.


@planted("sqrt at 0 in the side of `where` that is not taken", "backward")
def dead_branch():
    def loss(x):
        y = 3 * x
        return jnp.sum(jnp.where(y > 0, jnp.sqrt(y), 0.0))  # NaN

    return jax.jit(jax.grad(loss)), (jnp.array([4.0, 0.0]),)


@twin(dead_branch)
def _(torch):
    x = torch.tensor([4.0, 0.0], requires_grad=True)
    y = 3 * x
    root = torch.sqrt(y)  # NaN
    torch.where(y > 0, root, 0.0).sum().backward()


@planted("division by 0 in the side of `where` that is not taken", "backward")
def dead_division():
    def loss(x, y):
        ratio = x / y  # NaN
        return jnp.sum(jnp.where(y != 0, ratio, 0.0))

    return jax.grad(loss, argnums=1), (jnp.ones(2), jnp.array([2.0, 0.0]))


@twin(dead_division)
def _(torch):
    x = torch.ones(2)
    y = torch.tensor([2.0, 0.0], requires_grad=True)
    ratio = x / y  # NaN
    torch.where(y != 0, ratio, 0.0).sum().backward()


@planted("the gradient of a norm at 0", "backward")
def norm_at_zero():
    def loss(x):
        return jnp.linalg.norm(x - x)  # NaN

    return jax.grad(loss), (jnp.array([1.0, 2.0]),)


@twin(norm_at_zero)
def _(torch):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    torch.linalg.norm(x - x).backward()  # NaN


@planted("the gradient of a standard deviation of constants", "backward")
def std_of_constants():
    def loss(x):
        return jnp.sum(jnp.std(x, axis=0))  # NaN

    return jax.jit(jax.grad(loss)), (jnp.array([[1.0, 2.0], [1.0, 3.0]]),)


@twin(std_of_constants)
def _(torch):
    x = torch.tensor([[1.0, 2.0], [1.0, 3.0]], requires_grad=True)
    x.std(0, correction=0).sum().backward()  # NaN


@planted("sqrt at 0 times 0", "backward")
def sqrt_times_zero():
    def loss(x, weight):
        return jnp.sum(weight * jnp.sqrt(x))  # NaN

    return jax.grad(loss), (jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))


@twin(sqrt_times_zero)
def _(torch):
    x = torch.tensor([1.0, 0.0], requires_grad=True)
    (torch.tensor([1.0, 0.0]) * torch.sqrt(x)).sum().backward()  # NaN


@planted("arccos at 1", "backward")
def arccos_at_one():
    def loss(x):
        angle = jnp.arccos(x)  # NaN
        return jnp.sum(jnp.where(x < 1, angle, 0.0))

    return jax.jit(jax.grad(loss)), (jnp.array([0.5, 1.0]),)


@twin(arccos_at_one)
def _(torch):
    x = torch.tensor([0.5, 1.0], requires_grad=True)
    angle = torch.arccos(x)  # NaN
    torch.where(x < 1, angle, 0.0).sum().backward()


@planted("a logsumexp written by hand that overflows", "backward")
def naive_logsumexp():
    def loss(x):
        weights = jnp.exp(x)  # NaN
        return jnp.log(jnp.sum(weights))

    return jax.grad(loss), (jnp.array([100.0, 1.0]),)


@twin(naive_logsumexp)
def _(torch):
    x = torch.tensor([100.0, 1.0], requires_grad=True)
    weights = torch.exp(x)  # NaN
    torch.log(weights.sum()).backward()


@planted("a cosine similarity of a vector of zeros", "backward")
def cosine_similarity():
    def loss(a, b):
        length = jnp.sqrt(jnp.sum(a * a))  # NaN
        return jnp.dot(a, b) / jnp.maximum(length, 1e-6)

    return jax.grad(loss), (jnp.zeros(3), jnp.ones(3))


@twin(cosine_similarity)
def _(torch):
    a = torch.zeros(3, requires_grad=True)
    length = torch.sqrt((a * a).sum())  # NaN
    (torch.dot(a, torch.ones(3)) / torch.clamp(length, min=1e-6)).backward()


@planted("exp overflows in bfloat16 and is multiplied by 0", "backward")
def bfloat_overflow():
    def loss(x):
        y = jnp.exp(x)  # NaN
        return jnp.sum(jnp.where(x < 50, y, jnp.zeros_like(y)))

    return jax.grad(loss), (jnp.array([1.0, 95.0], jnp.bfloat16),)


@twin(bfloat_overflow)
def _(torch):
    x = torch.tensor([1.0, 95.0], dtype=torch.bfloat16, requires_grad=True)
    y = torch.exp(x)  # NaN
    torch.where(x < 50, y, torch.zeros_like(y)).sum().backward()


@planted("the gradient of a gradient: sqrt(x) ** 3 at 0", "backward")
def second_order():
    def f(x):
        return jnp.sqrt(x) ** 3  # NaN

    return jax.grad(jax.grad(f)), (jnp.array(0.0),)


@twin(second_order)
def _(torch):
    x = torch.tensor(0.0, requires_grad=True)
    y = torch.sqrt(x) ** 3  # NaN
    (dx,) = torch.autograd.grad(y, x, create_graph=True)
    dx.backward()


# In loops.


@planted("step 17 of a scan", "forward", steps=(17,))
def scan_forward():
    def f(xs):
        def step(carry, x):
            return carry + jnp.log(x), carry  # NaN

        return lax.scan(step, 0.0, xs)[0]

    return jax.jit(jax.value_and_grad(f)), (jnp.ones(40).at[17].set(-1.0),)


@twin(scan_forward)
def _(torch):
    xs = torch.ones(40)
    xs[17] = -1
    xs.requires_grad_()
    carry = torch.zeros(())
    for x in xs:
        carry = carry + torch.log(x)  # NaN
    carry.backward()


@planted("step 17 of a scan", "backward", steps=(17,))
def scan_backward():
    def f(xs):
        def step(carry, x):
            root = jnp.sqrt(x)  # NaN
            return carry + jnp.where(x > 0, root, 0.0), None

        return lax.scan(step, 0.0, xs)[0]

    return jax.jit(jax.grad(f)), (jnp.ones(40).at[17].set(0.0),)


@twin(scan_backward)
def _(torch):
    xs = torch.ones(40)
    xs[17] = 0
    xs.requires_grad_()
    carry = torch.zeros(())
    for x in xs:
        root = torch.sqrt(x)  # NaN
        carry = carry + torch.where(x > 0, root, 0.0)
    carry.backward()


@planted("step 3 of a scan in step 2 of a scan", "backward", steps=(2, 3))
def scan_in_scan():
    def f(xs):
        def inner(carry, x):
            return carry + jnp.where(x > 0, jnp.sqrt(x), 0.0), None  # NaN

        def outer(carry, row):
            return lax.scan(inner, carry, row)[0], None

        return lax.scan(outer, 0.0, xs)[0]

    return jax.grad(f), (jnp.ones((4, 5)).at[2, 3].set(0.0),)


@twin(scan_in_scan)
def _(torch):
    xs = torch.ones(4, 5)
    xs[2, 3] = 0
    xs.requires_grad_()
    carry = torch.zeros(())
    for row in xs:
        for x in row:
            carry = carry + torch.where(x > 0, torch.sqrt(x), 0.0)  # NaN
    carry.backward()


@planted("step 11 of a scan of a checkpointed body", "backward", steps=(11,))
def scan_of_checkpoint():
    def f(xs):
        @jax.checkpoint
        def step(carry, x):
            return carry * jnp.where(x > 0, jnp.sqrt(x), 1.0), None  # NaN

        return lax.scan(step, 1.0, xs)[0]

    return jax.jit(jax.grad(f)), (jnp.ones(20).at[11].set(0.0),)


@planted("element 6 of `lax.map`", "forward", steps=(6,))
def mapped():
    def f(xs):
        return jnp.sum(lax.map(lambda x: jnp.log(x), xs))  # NaN

    return jax.jit(f), (jnp.ones(10).at[6].set(-1.0),)


@planted("step 5 of `lax.while_loop`", "forward", steps=(5,))
def lax_while():
    def f(x):
        def body(state):
            i, y = state
            return i + 1, y - jnp.log(4.5 - i)  # NaN

        return lax.while_loop(lambda s: s[0] < 9, body, (0, x))[1] + jnp.log(x)

    return jax.jit(f), (jnp.array(1.0),)


@planted("step 3 of `funcgrad.while_loop`", "forward", steps=(3,))
def while_forward():
    def f(x):
        return fg.while_loop(
            lambda b: b < 1000,
            lambda b: 2 * b + jnp.sqrt(20 - b),  # NaN
            x,
            max_steps=20,
        )

    return jax.jit(jax.value_and_grad(f)), (jnp.array(0.1),)


@planted("step 3 of `funcgrad.while_loop`", "backward", steps=(3,))
def while_backward():
    def f(x):
        def body(state):
            i, y = state
            root = jnp.sqrt(y - y + jnp.abs(i - 3))  # NaN
            return i + 1.0, y * jnp.where(i == 3, 1.0, root)

        return fg.while_loop(lambda s: s[0] < 6, body, (x * 0, x), max_steps=10)[1]

    return jax.jit(jax.grad(f)), (jnp.array(2.0),)


@twin(while_backward)
def _(torch):
    x = torch.tensor(2.0, requires_grad=True)
    i, y = 0, x
    while i < 6:
        root = torch.sqrt(y - y + abs(i - 3))  # NaN
        y = y * torch.where(torch.tensor(i == 3), 1.0, root)
        i += 1
    y.backward()


@planted("step 2 of `funcgrad.fori_loop`", "backward", steps=(2,))
def fori_backward():
    def f(xs):
        def body(i, y):
            return y + jnp.where(xs[i] > 0, jnp.sqrt(xs[i]), 0.0)  # NaN

        return fg.fori_loop(0, 5, body, 0.0)

    return jax.grad(f), (jnp.ones(5).at[2].set(0.0),)


# In batches.


@planted("example 5 of a vmap", "forward", examples=(5,))
def vmap_forward():
    def f(x, w):
        return jnp.dot(jnp.log(x), w)  # NaN

    x = jnp.ones((8, 4)).at[5, 2].set(-1.0)
    return jax.jit(jax.vmap(f, in_axes=(0, None))), (x, jnp.ones(4))


@twin(vmap_forward)
def _(torch):
    x = torch.ones(8, 4)
    x[5, 2] = -1
    x.requires_grad_()
    torch.func.vmap(lambda x: torch.log(x).sum())(x).sum().backward()  # NaN


@planted("example 5 of a vmap of a gradient", "backward", examples=(5,))
def vmap_of_grad():
    def loss(w, x):
        y = jnp.dot(w, x)
        return jnp.where(y > 0, jnp.sqrt(y), 0.0)  # NaN

    x = jnp.ones((8, 4)).at[5].set(0.0)
    return jax.vmap(jax.grad(loss), in_axes=(None, 0)), (jnp.ones(4), x)


@twin(vmap_of_grad)
def _(torch):
    def loss(w, x):
        y = torch.dot(w, x)
        return torch.where(y > 0, torch.sqrt(y), 0.0)  # NaN

    x = torch.ones(8, 4)
    x[5] = 0
    torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(torch.ones(4), x)


@planted("example 5 of a vmap in a gradient", "backward", examples=(5,))
def grad_of_vmap():
    def each(w, x):
        return jnp.linalg.norm(w * x)  # NaN

    def loss(w, xs):
        return jnp.mean(jax.vmap(each, in_axes=(None, 0))(w, xs))

    x = jnp.ones((8, 4)).at[5].set(0.0)
    return jax.jit(jax.value_and_grad(loss)), (jnp.ones(4), x)


@twin(grad_of_vmap)
def _(torch):
    def each(w, x):
        return torch.sqrt(((w * x) ** 2).sum())  # NaN

    w, x = torch.ones(4, requires_grad=True), torch.ones(8, 4)
    x[5] = 0
    torch.func.vmap(each, in_dims=(None, 0))(w, x).mean().backward()


@planted("steps 1 and 3 of nested scans, example 2 of a vmap", "forward", (1, 3), (2,))
def scans_in_vmap():
    def each(rows):
        def inner(carry, x):
            return carry + jnp.log(x), None  # NaN

        def outer(carry, row):
            return lax.scan(inner, carry, row)[0], None

        return lax.scan(outer, 0.0, rows)[0]

    x = jnp.ones((3, 4, 5)).at[2, 1, 3].set(-1.0)
    return jax.jit(jax.vmap(each)), (x,)


@planted("examples 1 and 4 of two nested vmaps", "forward", examples=(1, 4))
def vmap_of_vmap():
    def each(x):
        return jnp.log(x)  # NaN

    return jax.vmap(jax.vmap(each)), (jnp.ones((3, 6)).at[1, 4].set(-1.0),)


@planted("a layer norm without eps, of constant features", "forward", examples=(3,))
def layer_norm():
    def each(x):
        centred = x - jnp.mean(x)
        return centred / jnp.sqrt(jnp.mean(centred**2))  # NaN

    x = jnp.arange(20.0).reshape(5, 4).at[3].set(1.0)
    return jax.jit(jax.vmap(each)), (x,)


@twin(layer_norm)
def _(torch):
    x = torch.arange(20.0).reshape(5, 4)
    x[3] = 1
    x.requires_grad_()
    centred = x - x.mean(1, keepdim=True)
    (centred / torch.sqrt((centred**2).mean(1, keepdim=True))).sum().backward()  # NaN


# In what surrounds a function.


@planted("a jit in a jit", "forward")
def jit_of_jit():
    @jax.jit
    def inner(x):
        return jnp.log(x)  # NaN

    @jax.jit
    def middle(x):
        return inner(x) * 2

    return jax.jit(lambda x: jnp.sum(middle(x) + inner(x + 3))), (jnp.array([1.0, -1.0]),)


@planted("a jit in a jit in a gradient", "backward")
def grad_of_jit_of_jit():
    @jax.jit
    def inner(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0)  # NaN

    @jax.jit
    def middle(x):
        return inner(x) * 2

    return jax.jit(jax.grad(lambda x: jnp.sum(middle(x)))), (jnp.array([1.0, 0.0]),)


@planted("the backward rule of a custom_vjp", "backward")
def custom_vjp():
    @jax.custom_vjp
    def safe(x):
        return jnp.abs(x)

    safe.defvjp(lambda x: (safe(x), x), lambda x, ct: (ct * x / jnp.abs(x),))

    def loss(x):
        return jnp.sum(safe(x))  # NaN

    return jax.jit(jax.grad(loss)), (jnp.array([1.0, 0.0]),)


@twin(custom_vjp)
def _(torch):
    class Safe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.abs(x)

        @staticmethod
        def backward(ctx, ct):
            (x,) = ctx.saved_tensors
            return ct * x / torch.abs(x)

    x = torch.tensor([1.0, 0.0], requires_grad=True)
    Safe.apply(x).sum().backward()  # NaN


@planted("the forward rule of a custom_vjp", "forward")
def custom_vjp_forward():
    @jax.custom_vjp
    def safe(x):
        return jnp.abs(x)

    def forward(x):
        return safe(x), jnp.log(x)  # NaN

    safe.defvjp(forward, lambda log, ct: (ct * log,))
    return jax.jit(jax.grad(lambda x: jnp.sum(safe(x)))), (jnp.array([1.0, -1.0]),)


@planted("the rule of a custom_jvp", "backward")
def custom_jvp():
    @jax.custom_jvp
    def cube_root(x):
        return jnp.cbrt(x)

    @cube_root.defjvp
    def _(primals, tangents):
        (x,), (dx,) = primals, tangents
        y = cube_root(x)
        return y, dx / (3 * y * y) * x  # NaN

    return jax.grad(lambda x: jnp.sum(cube_root(x))), (jnp.array([1.0, 0.0]),)


@planted("under jax.checkpoint", "backward")
def checkpointed():
    @jax.checkpoint
    def block(x):
        y = jnp.sin(x)
        return jnp.where(y > 0, jnp.sqrt(y), 0.0)  # NaN

    return jax.jit(jax.grad(lambda x: jnp.sum(block(x)))), (jnp.array([1.0, 0.0]),)


@twin(checkpointed)
def _(torch):
    def block(x):
        y = torch.sin(x)
        return torch.where(y > 0, torch.sqrt(y), 0.0)  # NaN

    x = torch.tensor([1.0, 0.0], requires_grad=True)
    torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False).sum().backward()


@planted("under jax.checkpoint", "forward")
def checkpointed_forward():
    @jax.checkpoint
    def block(x):
        return jnp.log(x)  # NaN

    return jax.jit(jax.grad(lambda x: jnp.sum(block(x)))), (jnp.array([1.0, -1.0]),)


@planted("the branch of a cond that is taken", "backward")
def cond():
    def loss(x):
        return lax.cond(
            x[0] >= 0,
            lambda x: jnp.sum(x * jnp.sqrt(x)),  # NaN
            lambda x: jnp.sum(x),
            x,
        )

    return jax.jit(jax.grad(loss)), (jnp.array([0.0, 1.0]),)


@twin(cond)
def _(torch):
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    if x[0] >= 0:
        (x * torch.sqrt(x)).sum().backward()  # NaN


@planted("the third branch of a switch", "forward")
def switch():
    def f(index, x):
        branches = [jnp.sin, jnp.cos, lambda x: jnp.log(x - 2)]  # NaN
        return lax.switch(index, branches, x)

    return jax.jit(f), (jnp.array(2), jnp.array(1.0))


@planted("a hook that divides a gradient of 0 by its norm", "backward")
def hook():
    def unit(g):
        return g / jnp.sqrt(jnp.sum(g * g))  # NaN

    def loss(x):
        x = fg.register_hook(x, unit)
        return jnp.sum(x * 0)

    return jax.jit(fg.grad(loss)), (jnp.ones(3),)


@twin(hook)
def _(torch):
    x = torch.ones(3, requires_grad=True)
    y = x * 1
    y.register_hook(lambda g: g / torch.sqrt((g * g).sum()))  # NaN
    (y * 0).sum().backward()


@planted("micro-batch 2 of 4", "backward", steps=(2,))
def microbatch():
    def loss(w, x):
        return jnp.sum(jnp.linalg.norm(x * w, axis=1))  # NaN

    x = jnp.ones((8, 3)).at[5].set(0.0)
    step = fg.microbatch(fg.value_and_grad(loss), 4)
    return jax.jit(step), (jnp.ones(3), x)


@twin(microbatch)
def _(torch):
    w, x = torch.ones(3, requires_grad=True), torch.ones(8, 3)
    x[5] = 0
    for micro in x.chunk(4):
        torch.sqrt(((micro * w) ** 2).sum(1)).sum().backward()  # NaN


@planted("a device of a shard_map", "forward")
def shard_map():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def each(x):
        return lax.pmean(jnp.sum(jnp.log(x)), "data")  # NaN

    spec = PartitionSpec("data")
    f = jax.shard_map(each, mesh=mesh, in_specs=spec, out_specs=PartitionSpec())
    return jax.jit(f), (jnp.ones((8, 2)).at[5, 1].set(-1.0),)


@planted("Adam without eps, where a gradient is 0", "forward")
def adam():
    def update(params, grads):
        def one(p, g):
            m, v = 0.1 * g, 0.001 * g * g
            return p - 0.01 * m / jnp.sqrt(v)  # NaN

        return jax.tree.map(one, params, grads)

    params = {"w": jnp.ones(2), "b": jnp.ones(())}
    return jax.jit(update), (params, {"w": jnp.array([1.0, 0.0]), "b": jnp.array(1.0)})


@twin(adam)
def _(torch):
    p, g = torch.ones(2, requires_grad=True), torch.tensor([1.0, 0.0])
    m, v = 0.1 * g, 0.001 * g * g
    (p - 0.01 * m / torch.sqrt(v)).sum().backward()  # NaN


@planted("forward mode: the tangent of a norm at 0", "forward")
def forward_mode():
    def f(x):
        return jnp.linalg.norm(x)  # NaN

    return lambda x: jax.jvp(f, (x,), (jnp.ones(3),)), (jnp.zeros(3),)


@twin(forward_mode)
def _(torch):
    x = torch.zeros(3)
    torch.func.jvp(lambda x: torch.sqrt((x * x).sum()), (x,), (torch.ones(3),))  # NaN
