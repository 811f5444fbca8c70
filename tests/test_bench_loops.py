"""The benchmark of loops runs, compares before it times, and says what is not there."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcgrad import FileError
from funcgrad.bench import _timer, loops

ARGS = loops.operands(3, 5)
equinox = pytest.mark.skipif(
    importlib.util.find_spec("equinox") is None,
    reason="Equinox is not installed: pip install 'funcgrad[bench]'",
)


def test_every_contender_takes_five_steps():
    x, w, n = ARGS
    want = x
    for _ in range(5):
        want = jnp.tanh(w @ want)
    for contender in loops.contenders(5, [8]):
        if contender.loop:
            np.testing.assert_allclose(contender.loop(x, w, n), want, rtol=1e-5)


def test_the_number_of_trips_is_known_at_run_time_only():
    x, w, _ = ARGS
    for contender in loops.contenders(5, [8])[1:]:
        if contender.loop:
            run = jax.jit(contender.loop)
            np.testing.assert_array_equal(run(x, w, jnp.int32(0)), x)
            assert not np.array_equal(run(x, w, jnp.int32(1)), x)
            assert run._cache_size() == 1, contender.name


@equinox
def test_contenders_without_forward_mode_are_marked():
    for contender in loops.contenders(5, [8]):
        fun = jax.jit(loops.derivative(contender.loop))
        if contender.forward:
            fun(*ARGS)
        else:
            with pytest.raises(Exception, match="forward-mode autodiff"):
                fun(*ARGS)


def test_values_and_gradients_neither_vanish_nor_overflow():
    x, w, n = loops.operands(16, 1000)
    for array in loops.gradient(loops.scan(1000))(x, w, n):
        assert 1e-6 < jnp.max(jnp.abs(array)) < 1e3


def test_a_contender_with_other_numbers_is_not_timed():
    wrong = loops.until(lambda cond, body, init: init)  # no step at all
    functions = {"scan": loops.gradient(loops.scan(5)), "wrong": loops.gradient(wrong)}
    with pytest.raises(ValueError, match=r"`wrong` is off by .* of what `scan` returns"):
        loops.measure(functions, ARGS, rounds=1)


@pytest.mark.parametrize("wrong", [1.002, jnp.nan])
def test_agree_fails_where_one_array_differs(wrong):
    good = [jnp.ones(3), jnp.zeros(2) + 5]
    loops.agree({"a": good, "b": good})
    with pytest.raises(ValueError, match="`b` is off by"):
        loops.agree({"a": good, "b": [good[0], good[1].at[1].mul(wrong)]})


def test_what_is_not_installed_shows_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    everyone = loops.contenders(3, [4])
    assert [c.name for c in everyone if c.loop is None] == [
        "equinox bounded, room 4",
        "equinox, room 4, 4 checkpoints",
        "equinox, room 4, its own checkpoints",
    ]
    monkeypatch.setattr(loops, "contenders", lambda *_: [everyone[0], everyone[-1]])
    costs = loops.side_by_side(1, 3, [4], rounds=1)
    lines = loops.table(loops.rows(costs)).splitlines()
    assert lines[-1].startswith(everyone[-1].name)
    assert lines[-1].endswith("not installed")


@pytest.mark.skipif(not loops.has_checkpoints(), reason="while_loop has no checkpoints")
def test_with_checkpoints_equinox_gets_as_much_memory_as_ours():
    costs = loops.by_checkpoints(4, 60, 64, rounds=1, counts=[8])
    base, mine, *rest = costs
    assert (base, mine) == ("lax.scan", "funcgrad, room 64, 8 checkpoints")
    for name in rest:
        if costs[name]["reverse"]:
            assert costs[name]["reverse"].bytes == pytest.approx(
                costs[mine]["reverse"].bytes, rel=0.2
            )


def test_the_command_prints_tables_and_writes_the_numbers(monkeypatch, tmp_path, capsys):
    few = loops.contenders(1, [2])[:2]  # all of them take long to compile
    monkeypatch.setattr(loops, "contenders", lambda *_: few)
    path = tmp_path / "loops.json"
    loops.main(["--width", "2", "--steps", "1", "--repeat", "1", "--json", str(path)])
    report = json.loads(path.read_text())
    text = capsys.readouterr().out
    assert set(report) == {"header", "side by side", "checkpoints", "trips"}
    assert report["header"]["jax"] == jax.__version__
    for name, cost in report["side by side"]["2"].items():
        assert name in text
        assert cost["reverse"] is None or cost["reverse"]["times"]["rounds"][0] > 0
    assert report["side by side"]["2"]["lax.scan"]["forward"]["bytes"] >= 0
    assert list(report["trips"]["2"]) == ["1", "10"]
    assert [path] == list(tmp_path.iterdir())


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "loops.json"
    path.write_text("before")
    with pytest.raises(TypeError):
        loops.write(path, {"good": 1, "bad": object()})
    with pytest.raises(FileError, match="there is no folder"):
        loops.write(tmp_path / "nowhere" / "loops.json", {})
    assert path.read_text() == "before"
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--width", "0"], ["--repeat", "-1"], ["--steps", "x"]])
def test_options_that_are_no_positive_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        loops.options(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_times_are_of_every_call_in_every_round():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = _timer.interleaved(calls, rounds=3)
    assert order == list("ab" + "ab" + "ba" + "ab")
    assert all(len(each.rounds) == 3 and each.minimum > 0 for each in times.values())


def test_a_short_call_is_repeated_to_last():
    count = []
    _timer.interleaved({"a": lambda: count.append(1)}, rounds=1, at_least=1e-3)
    assert len(count) > 2
