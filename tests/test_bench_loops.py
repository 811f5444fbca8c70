"""The loops of the benchmark are what they say: length known or not, room, checkpoints, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcgrad.bench import _case, _measure
from funcgrad.bench.cases import loops

ARGS = loops.operands(3, 5)
LOOPS = {
    "masked": lambda: loops.masked(8),
    "funcgrad": lambda: loops.ours(8),
    **loops.with_room(8, forward=False),
}


def loop_of(name):
    if name.startswith("equinox"):
        pytest.importorskip("equinox", reason="it needs pip install 'funcgrad[bench]'")
    return LOOPS[name]()


def test_a_scan_takes_five_steps():
    x, w, n = ARGS
    want = x
    for _ in range(5):
        want = jnp.tanh(w @ want)
    np.testing.assert_allclose(loops.scan(5)(x, w, n), want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_the_number_of_trips_is_known_at_run_time_only(name):
    x, w, _ = ARGS
    run = jax.jit(loop_of(name))
    np.testing.assert_array_equal(run(x, w, jnp.int32(0)), x)
    np.testing.assert_allclose(run(x, w, jnp.int32(5)), loops.scan(5)(*ARGS), rtol=1e-5)
    assert run._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_contenders_without_forward_mode_are_left_out_of_it(name):
    fun = jax.jit(loops.derivative(loop_of(name)))
    if name.startswith("equinox") and name not in loops.with_room(8, forward=True):
        with pytest.raises(Exception, match="forward-mode autodiff"):
            fun(*ARGS)
    else:
        fun(*ARGS)


@pytest.mark.slow
def test_values_and_gradients_neither_vanish_nor_overflow():
    x, w, n = loops.operands(16, 1000)
    for array in loops.gradient(loops.scan(1000))(x, w, n):
        assert 1e-6 < jnp.max(jnp.abs(array)) < 1e3


def test_room_is_the_next_power_of_two():
    assert [loops.room_for(trips) for trips in (1, 2, 3, 1000, 1024, 1025)] == [
        *(2, 2, 4, 1024, 1024, 2048),
    ]
    names = list(_case.cases()["loops/derivative-by-room"].build((2, 3)).peers)
    assert names == [
        "funcgrad, room 4, 2 checkpoints",
        "funcgrad, room 4, 4 checkpoints",
        "equinox, room 4, bounded",
        "funcgrad, room 64",
        "funcgrad, room 64, 8 checkpoints",
        "funcgrad, room 64, 64 checkpoints",
        "equinox, room 64, bounded",
    ]


@pytest.mark.slow
def test_equinox_gets_as_much_memory_as_ours():
    pytest.importorskip("equinox", reason="it needs pip install 'funcgrad[bench]'")
    problem = loops.equal_memory((4, 60))
    assert list(problem.peers) == ["funcgrad, 16 checkpoints", "equinox in the memory of 16"]
    bytes_of = lambda fun: (
        _measure.told(jax.jit(fun).lower(*problem.args).compile(), None).temporary
    )
    ours, theirs = (bytes_of(make()) for make in problem.peers.values())
    assert theirs == pytest.approx(ours, rel=0.2)
