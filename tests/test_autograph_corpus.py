"""`autograph` on small functions as people write them, against plain Python and PyTorch.

Each function runs as it stands, in Python on un-jitted JAX and, where its body asks no library for
anything, on PyTorch's tensors; and converted: compiled, differentiated, and batched.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import one_in, slow_but

import funcgrad as fg

# Integers in, integers out.


def collatz(n):
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def gcd_by_subtraction(a, b):
    while a != b:
        if a > b:
            a = a - b
        else:
            b = b - a
    return a


def digit_sum(n):
    total = 0
    while n:
        total, n = total + n % 10, n // 10
    return total


def is_prime(n):
    if n < 2:
        return False
    k = 2
    while k * k <= n:
        if n % k == 0:
            return False
        k += 1
    return True


def power_modulo(base, exponent, modulus):
    result = 1
    while exponent > 0:
        if exponent % 2 == 1:
            result = result * base % modulus
        base = base * base % modulus
        exponent //= 2
    return result


def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def perfect_numbers_below(limit):
    found = 0
    for n in range(2, limit):
        total = 0
        for d in range(1, n):
            if n % d:
                continue
            total += d
        if total == n:
            found += 1
    return found


def smallest_divisor(n):
    for d in range(2, n):
        if n % d == 0:
            break
    else:
        d = n
    return d


def integer_square_root(n):
    low, high = 0, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        if middle * middle <= n:
            low = middle
        else:
            high = middle
    return low


def countdown(start, stop, step):
    total = 0
    for i in range(start, stop, step):
        total = 10 * total + i
    return total


# Roots and fixed points.


def bisected_cube_root(target):
    low, high = 0.0, 10.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        if middle**3 < target:
            low = middle
        else:
            high = middle
    return middle - (middle**3 - target) / (3 * middle**2)


def newton_square_root(a):
    x = a
    while abs(x * x - a) > 1e-4:
        x = x - (x * x - a) / (2 * x)
    return x


def babylonian(a):
    x = 1.0
    for _ in range(50):
        previous = x
        x = (x + a / x) / 2
        if abs(x - previous) < 1e-4:
            break
    return x


def fixed_point(a):
    x, change = 1.0, 1.0
    while change > 1e-4:
        x, old = 1 / (1 + a * x), x
        change = abs(x - old)
    return x


def until_converged(a):
    x = a
    while True:
        y = 0.5 * (x + 3 / x)
        if abs(y - x) < 1e-3:
            return y * a
        x = y


def secant(a):
    previous, x = 1.0, 2.0
    while abs(x - previous) > 1e-3:
        f, g = x**3 - a, previous**3 - a
        if abs(f - g) < 1e-6:
            break
        previous, x = x, x - f * (x - previous) / (f - g)
    return x


def golden_section(c):
    low, high, ratio = -3.0, 3.0, 0.618
    while high - low > 0.1:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if (left - c) ** 2 < (right - c) ** 2:
            high = right
        else:
            low = left
    return (low + high) / 2 * c


# Descent.


def backtracking(x):
    step, slope = 1.0, 4 * x**3
    while (x - step * slope) ** 4 > x**4 - 0.5 * step * slope**2:
        step = step / 2
    return x - step * slope


def descent(start):
    x = start
    for _ in range(30):
        slope = 2 * (x - 1)
        if -0.1 < slope < 0.1:
            return x
        x = x - 0.2 * slope
    return x


def soft_threshold(x):
    while not (-0.5 <= x <= 0.5):
        x = x - 0.3 if x > 0 else x + 0.3
    return x * x


# Series and numbers.


def power_by_squaring(x, n):
    result = 1.0
    while n > 0:
        if n % 2 == 1:
            result = result * x
        x = x * x
        n = n // 2
    return result


def exponential(x):
    term = total = 1.0
    for k in range(1, 60):
        term = term * x / k
        total = total + term
        if abs(term) < 1e-6:
            break
    return total


def geometric_series(x):
    term, total = 1.0, 0.0
    while abs(term) > 1e-3:
        total += term
        term *= x
    return total


def nested_loops(x, n):
    total = 0.0
    for i in range(n):
        for j in range(i):
            total = total + x**2 * j - x * i
    return total


def odd_multiples(x, n):
    total = 0.0
    for i in range(n):
        if i % 2 == 0:
            continue
        total += i * x
    return total


def triangle(x, n):
    if n == 0:
        return 0 * x
    total = x
    for i in range(2, n + 1):
        total = total + i * x
    return total


def first_pair(x, n):
    for i in range(1, n):
        for j in range(1, n):
            if i * x > 2 + j:
                return i * x - j
    return -x


def recursive_power(x, n=5):
    if n == 0:
        return 1.0
    half = recursive_power(x, n // 2)
    return half * half * x if n % 2 else half * half


# Branches.


def piecewise(x):
    if x < -1:
        y = -x - 0.5
    elif x < 1:
        y = x * x / 2
    else:
        y = x - 0.5
    return y


def early_returns(x):
    if x < 0:
        return -x
    y = x * x
    if y > 4:
        return 3 * y
    return y + x


def sides(x):
    inside = 0 < x < 2
    return x * x if inside else (3 * x if x > 0 else -x)


def gates(x):
    if (x > 1 and not x > 2) or x < -3:
        return 2 * x
    return x / 2


def by_name(x, kind="square"):
    if kind == "square":
        return x * x if x > 0 else -x * x
    if kind == "cube":
        return x * x * x
    raise ValueError(kind)


def clipped(x):
    return max(-1.0, min(x, 1.0)) * x


def thermostat(gain):
    temperature, heating, switched = 15.0, True, 0
    for hour in range(24):
        temperature = temperature + (gain if heating else -0.7)
        if heating and temperature > 20:
            heating, switched = False, hour
        elif not heating and temperature < 18:
            heating = True
    return temperature + switched * gain


# Orbits.


def escape(c):
    x = y = 0.0
    for step in range(40):
        x, y = x * x - y * y + c, 2 * x * y + 0.3
        if x * x + y * y > 4:
            return x * x + y * y + step
    return x + y


def logistic(r):
    x, count = 0.3, 0
    while 0.2 < x < 0.9 and count < 30:
        x = r * x * (1 - x)
        count += 1
    return x


def adaptive_steps(rate):
    t, y, h = 0.0, 1.0, 0.5
    while t < 1:
        if t + h > 1:
            h = 1 - t
        euler = y - h * rate * y
        heun = y - h * rate * (y + euler) / 2
        if abs(heun - euler) > 0.01:
            h = h / 2
            continue
        t, y = t + h, heun
        h = 1.5 * h
    return y


def trapezoids(a):
    n, change, area = 1, 1.0, 0.0
    while change > 0.01:
        new = 0.0
        for i in range(n):
            left, right = i / n, (i + 1) / n
            new = new + (left * left + right * right) * a / (2 * n)
        change, area = abs(new - area), new
        n = 2 * n
    return area


# Arrays.


def horner(x, coefficients):
    value = 0.0
    for c in coefficients:
        value = value * x + c
    return value


def sum_until(xs, limit):
    total = 0.0
    for x in xs:
        if total + x > limit:
            break
        total = total + x
    return total


def first_above(xs, limit):
    for x in xs:
        if x > limit:
            return x * x
    return -limit * xs[0]


def running_maximum(xs):
    best, total = xs[0], 0.0
    for x in xs:
        if x > best:
            best = x
        total = total + best
    return total


def largest_run(xs):
    best = current = xs[0]
    for x in xs[1:]:
        current = max(x, current + x)
        best = max(best, current)
    return best


def smallest_and_where(xs):
    best, where = xs[0], 0
    for i, x in enumerate(xs):
        if x < best:
            best, where = x, i
    return best * (1 + where)


def products_while_positive(xs, ys):
    total = 0.0
    for x, y in zip(xs, ys, strict=True):
        if x * y < 0:
            break
        total += x * y
    return total


def rows(matrix):
    kept = 0.0
    for row in matrix:
        if row.sum() < 0:
            continue
        kept = kept + (row * row).sum()
    return kept


def insertion_point(x, table):
    low, high = 0, len(table)
    while low < high:
        middle = (low + high) // 2
        if table[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low * x


def power_iteration(matrix):
    v, size, change = matrix[0], 0.0, 1.0
    while change > 1e-3:
        w = matrix @ v
        new = (w * w).sum() ** 0.5
        v, size, change = w / new, new, abs(new - size)
    return size


def doubled_past_a_thousand(a):
    b = 2 * a
    while (b * b).sum() < 1000**2:
        b = 2 * b
    return b.sum() if b.sum() > 0 else 100 * b.sum()


# Functions that call functions.


def outer(x):
    def shrunk(y):
        while y > 1:
            y = y / 3
        return y

    return shrunk(x) + shrunk(x * x)


def helper(y, limit):
    while y < limit:
        y = y * 1.5
    return y


def calls_helper(x):
    return helper(x, 10) + helper(limit=20, y=x) if x > 0 else helper(-x, 5)


class Decay:
    def __init__(self, rate):
        self.rate = rate

    def step(self, x):
        return x - self.rate * x if x > 0.5 else x * x

    def __call__(self, x):
        for _ in range(5):
            x = self.step(x)
        return x


def higher_order(x):
    return functools.reduce(helper_sum, [x, 2 * x, 3 * x])


def helper_sum(a, b):
    if a > 4:
        return a - b
    return a + b


def random_walk(x):
    key, position, steps = jax.random.key(3), x, 0
    while abs(position) < 3 and steps < 40:
        key, draw = jax.random.split(key)
        position = position + x * jax.random.normal(draw)
        steps += 1
    return position


class Case(NamedTuple):
    fun: Any
    inputs: tuple[tuple[Any, ...], ...]  # argument lists; only the first argument may be an array
    neutral: bool = True  # the body asks no library for anything


TABLE = [0.5, 1.5, 2.5, 4.5, 8.5]
INTEGERS = [
    Case(collatz, ((1,), (6,), (27,))),
    Case(gcd_by_subtraction, ((12, 18), (35, 14), (7, 7))),
    Case(digit_sum, ((0,), (907,), (123456,))),
    Case(is_prime, ((1,), (2,), (91,), (97,))),
    Case(power_modulo, ((3, 13, 7), (2, 0, 5), (10, 9, 6))),
    Case(fibonacci, ((0,), (1,), (10,))),
    Case(perfect_numbers_below, ((7,), (30,))),
    Case(smallest_divisor, ((35,), (13,), (8,))),
    Case(integer_square_root, ((0,), (17,), (144,))),
    Case(countdown, ((3, 0, -1), (1, 6, 2), (5, 5, 1), (0, 4, 3))),
]
FLOATS = [
    Case(bisected_cube_root, ((8.0,), (30.0,))),
    Case(newton_square_root, ((2.0,), (9.0,))),
    Case(babylonian, ((2.0,), (50.0,))),
    Case(fixed_point, ((0.7,), (2.0,))),
    Case(until_converged, ((1.0,), (7.0,))),
    Case(secant, ((3.0,), (8.0,))),
    Case(golden_section, ((0.4,), (-2.0,))),
    Case(backtracking, ((1.5,), (0.3,))),
    Case(descent, ((4.0,), (1.01,))),
    Case(soft_threshold, ((2.2,), (-1.3,), (0.1,))),
    Case(power_by_squaring, ((1.3, 0), (1.3, 5), (0.7, 12))),
    Case(exponential, ((1.5,), (-0.4,))),
    Case(geometric_series, ((0.5,), (-0.3,))),
    Case(nested_loops, ((1.5, 0), (1.5, 4))),
    Case(odd_multiples, ((1.5, 0), (2.5, 7))),
    Case(triangle, ((1.5, 0), (1.5, 5))),
    Case(first_pair, ((1.7, 5), (0.1, 4))),
    Case(recursive_power, ((1.3,), (-0.7,))),
    Case(piecewise, ((-2.0,), (0.4,), (3.0,))),
    Case(early_returns, ((-2.0,), (1.5,), (3.0,))),
    Case(sides, ((-1.0,), (1.5,), (3.0,))),
    Case(gates, ((1.5,), (2.5,), (-4.0,))),
    Case(by_name, ((1.5,), (-2.5,))),
    Case(functools.partial(by_name, kind="cube"), ((1.5,), (-2.5,))),
    Case(clipped, ((0.4,), (2.5,), (-3.0,))),
    Case(thermostat, ((0.9,), (1.7,))),
    Case(escape, ((0.2,), (0.9,))),
    Case(logistic, ((3.2,), (3.9,))),
    Case(adaptive_steps, ((1.0,), (3.0,))),
    Case(trapezoids, ((1.0,), (3.0,))),
    Case(horner, ((1.5, TABLE), (-0.5, TABLE))),
    Case(sum_until, (([1.0, 2.0, 3.0, 4.0], 5.0), ([1.0, 2.0, 3.0, 4.0], 50.0))),
    Case(first_above, (([1.0, 2.0, 3.0], 1.5), ([1.0, 2.0, 3.0], 5.0))),
    Case(running_maximum, (([1.0, 3.0, 2.0, 4.0],), ([4.0, 3.0, 2.0, 1.0],))),
    Case(largest_run, (([1.0, -3.0, 2.0, 4.0],), ([-4.0, -3.0, -2.0, 1.0],))),
    Case(smallest_and_where, (([2.0, -3.0, 2.0],), ([-4.0, -3.0, -2.0],))),
    Case(products_while_positive, (([2.0, 3.0, 2.0], [1.0, 2.0, -1.0]),)),
    Case(rows, (([[1.0, 2.0], [-3.0, 1.0], [0.5, 0.5]],),)),
    Case(insertion_point, ((1.7, TABLE), (9.9, TABLE), (0.1, TABLE))),
    Case(power_iteration, (([[2.0, 1.0], [1.0, 3.0]],), ([[5.0, 0.5], [0.5, 1.0]],))),
    Case(doubled_past_a_thousand, (([1.0, -0.5, 2.0],), ([-300.0, 2.0, 5.0],))),
    Case(outer, ((1.7,), (0.5,))),
    Case(calls_helper, ((1.7,), (-0.5,))),
    Case(Decay(0.3), ((1.7,), (0.4,))),
    Case(Decay(0.3).step, ((1.7,), (0.4,))),
    Case(higher_order, ((1.7,), (0.4,))),
    Case(lambda x: x * x if x > 1 else -x, ((1.7,), (0.4,))),
    Case(random_walk, ((0.7,), (1.4,)), neutral=False),
]


def named(case):
    return getattr(case.fun, "__name__", type(case.fun).__name__)


def on_jax(case):
    """The argument lists, tables as arrays."""
    for first, *rest in case.inputs:
        yield jnp.asarray(first), *(jnp.asarray(x) if isinstance(x, list) else x for x in rest)


@functools.cache
def compiled(fun):
    return jax.jit(fg.value_and_grad(fg.autograph(fun, max_steps=40)))


def test_the_corpus_is_large_enough():
    assert len(INTEGERS) + len(FLOATS) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("case", INTEGERS, ids=named)
def test_integers_compiled(case):
    compiled = jax.jit(fg.autograph(case.fun, max_steps=150))
    for inputs in case.inputs:
        assert compiled(*inputs) == case.fun(*inputs), inputs


@pytest.mark.slow
@pytest.mark.parametrize("case", INTEGERS, ids=named)
def test_integers_batched(case):
    batched = jax.jit(jax.vmap(fg.autograph(case.fun, max_steps=150)))
    got = batched(*map(jnp.array, zip(*case.inputs, strict=True)))
    assert got.tolist() == [case.fun(*inputs) for inputs in case.inputs]


@pytest.mark.slow
@pytest.mark.parametrize("case", slow_but(FLOATS[::3].__contains__, FLOATS), ids=named)
def test_value_and_gradient_compiled_are_those_of_plain_python(case):
    for inputs in on_jax(case):
        got, want = compiled(case.fun)(*inputs), jax.value_and_grad(case.fun)(*inputs)
        np.testing.assert_allclose(got[0], want[0], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(got[1], want[1], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("case", one_in(3, FLOATS), ids=named)
def test_gradients_batched_are_those_of_each_example(case):
    every = list(on_jax(case))
    firsts, rest = jnp.stack([first for first, *_ in every]), every[0][1:]
    batched = jax.vmap(fg.grad(fg.autograph(case.fun, max_steps=40)), (0, *[None] * len(rest)))
    want = [jax.grad(case.fun)(first, *rest) for first in firsts]
    np.testing.assert_allclose(jax.jit(batched)(firsts, *rest), want, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("case", [x for x in FLOATS if x.neutral], ids=named)
def test_value_and_gradient_are_pytorchs(case, torch):
    first, *rest = case.inputs[-1]
    tensor = torch.tensor(first, requires_grad=True)
    theirs = case.fun(tensor, *(torch.tensor(x) if isinstance(x, list) else x for x in rest))
    theirs.backward()
    value, gradient = compiled(case.fun)(*list(on_jax(case))[-1])
    np.testing.assert_allclose(value, theirs.item(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=2e-4, atol=1e-5)
