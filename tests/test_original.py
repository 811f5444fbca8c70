"""Every value that the original notebook recorded, cell by cell, eager and jitted."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from closeness import assert_same

import funcgrad as fg
from funcgrad.compare import read

RECORDED = Path(__file__).parents[1] / "notebooks" / "original_outputs.ipynb"

X = jnp.arange(4.0)


@pytest.fixture(params=[lambda f: f, jax.jit], ids=["eager", "jit"])
def around(request):
    return request.param


def test_cells_16_and_17():
    assert_same(X, jnp.array([0.0, 1.0, 2.0, 3.0]))


def chain(x):
    y = fg.retain_grad(2 * jnp.dot(x, x), "y")
    z = fg.retain_grad(2 * y, "z")
    return z**2


def test_cell_18(around):
    h, _, kept = around(fg.value_and_grad(chain, retain=("y", "z")))(X)
    assert (kept["y"].value, kept["z"].value, h) == (28.0, 56.0, 3136.0)


def test_cell_19(around):
    grads, kept = around(fg.grad(chain, retain=("y", "z")))(X)
    assert (kept["z"].grad, kept["y"].grad) == (112.0, 224.0)
    assert grads.tolist() == [0.0, 896.0, 1792.0, 2688.0]


def test_cell_20(around):
    grads, kept = around(fg.grad(chain, retain=...))(X)
    y, z = kept["y"], kept["z"]
    assert z.grad == 2 * z.value
    assert y.grad == z.grad * 2
    assert (grads == y.grad * 4 * X).tolist() == [True] * 4


def test_cell_21(around):
    @around
    def zeroed_and_accumulated(x):
        acc = fg.accumulate_grad(None, fg.grad(chain)(x))
        acc = fg.zero_grad(acc)
        return fg.accumulate_grad(acc, fg.grad(jnp.sum)(x))

    assert zeroed_and_accumulated(X).tolist() == [1.0, 1.0, 1.0, 1.0]


def test_cell_21_without_zeroing_accumulates(around):
    fun = around(lambda x: fg.accumulate_grad(fg.grad(chain)(x), fg.grad(jnp.sum)(x)))
    assert fun(X).tolist() == [1.0, 897.0, 1793.0, 2689.0]


def test_cell_22(around):
    cube = lambda x: x * x * x
    summed = around(fg.grad(lambda x: jnp.sum(cube(x))))
    given = around(fg.grad(cube, gradient=jnp.ones(4)))
    assert (X * X).tolist() == [0.0, 1.0, 4.0, 9.0]
    assert summed(X).tolist() == given(X).tolist() == [0.0, 3.0, 12.0, 27.0]


def test_cell_23(around):
    def fun(x):
        u = fg.detach(x * x)
        return jnp.sum(u * x), u

    grads, u = around(fg.grad(fun, has_aux=True))(X)
    assert (grads == u).tolist() == [True] * 4


def test_cell_24(around):
    grads = around(fg.grad(lambda x: jnp.sum(x * x)))(X)
    assert (grads == 2 * X).tolist() == [True] * 4


def doubled_until_large(a):
    b = a * 2
    while jnp.linalg.norm(b) < 1000:
        b = b * 2
    return b if jnp.sum(b) > 0 else 100 * b


@pytest.mark.parametrize(("a", "slope"), [(1.4223, 1024.0), (-1.4223, 102400.0)])
def test_cell_25(a, slope):
    d, grads = fg.value_and_grad(doubled_until_large)(jnp.float32(a))
    assert grads == slope
    assert grads == d / jnp.float32(a)


def test_cell_26_and_27(around):
    def fun(x):
        y1 = x**2
        y2 = fg.no_grad(lambda x: x**3)(x)
        return y1 + y2, (y1, y2)

    (y3, (y1, y2)), grads = around(fg.value_and_grad(fun, has_aux=True))(jnp.float32(1))
    assert (y1, y2, y3) == (1.0, 1.0, 2.0)
    assert grads == 2 * jnp.float32(1)


def test_cell_28(around):
    def fun(x):
        y = 2 * x
        return y, fg.set_data(x, x * 100)

    (_, x), grads = around(fg.value_and_grad(fun, has_aux=True))(jnp.ones(1))
    assert (x.tolist(), grads.tolist()) == ([100.0], [2.0])


def test_the_quick_tier_has_every_recorded_cell(quick_tests):
    names = [test.name for test in quick_tests if test.path.name == Path(__file__).name]
    tested = {int(number) for name in names for number in re.findall(r"(?<=_)\d+", name)}
    assert tested == {cell.number for cell in read(RECORDED) if cell.outputs}
