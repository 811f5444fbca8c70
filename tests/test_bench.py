"""`funcgrad bench`: its cases are complete and agree, its reports whole, its refusals one line."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import bench_page as page
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg
from funcgrad import cli
from funcgrad._files import write_whole
from funcgrad.bench import _case, _measure, _plot, _report, _run, _timer, _torch, _worker
from funcgrad.bench._case import CONTENDERS, Own, Problem, Torch
from funcgrad.bench.program import normalized
from funcgrad.errors import BenchError

CASES = _case.cases()
QUICK = _measure.Plan(rounds=2, stages=1, at_least=0, budget=0.01)
ROOT = Path(__file__).parents[1]


# Of cases whose smallest size is not small enough for a test.
SMALL = {
    "loops/gradient-by-room": "3x5",
    "loops/derivative-by-room": "3x5",
    "loops/equal-memory": "4x60",
    "tracing/line": "6x2",
}


def smallest(case):
    return case.build(case.size(SMALL.get(case.name, next(iter(case.sizes)))))


def test_every_cell_of_the_original_that_computes_gradients_is_a_case():
    cells = set()
    for name in CASES:
        group, _, cell = name.partition("/")
        if group == "original":
            first, *last = map(int, cell.removeprefix("in").split("-"))
            cells |= set(range(first, (last or [first])[0] + 1))
    assert cells == set(range(18, 29))  # In [16] and [17] make the input


def test_each_model_has_each_idiom():
    for model in ("mlp", "cnn", "rnn", "transformer"):
        for idiom in ("", "-retain", "-hook", "-mask"):
            assert list(CASES[f"models/{model}{idiom}"].sizes) == ["tiny", "medium", "large"]


def test_groups_sweeps_and_sizes():
    groups = {name.partition("/")[0] for name in CASES}
    assert groups == {
        *("original", "models", "loops", "accumulation", "second-order", "checks", "inside"),
        *("sweeps", "tracing"),
    }
    counted = {case.sweep for case in CASES.values() if case.sweep}
    assert counted == {"numbers", "width", "layers", "tags", "trips"}
    for case in CASES.values():
        assert case.about, case.name
        assert set(case.dispatch) <= set(case.sizes), case.name
        if case.sweep:
            assert len(case.sizes) >= 3
            assert list(map(int, case.sizes)) == sorted(case.sizes.values())


@functools.cache
def computed(name, contender):
    """What a contender in JAX gives at the smallest size, compiled as quickly as XLA can."""
    with jax.numpy_dtype_promotion("standard"):  # which optax counts on
        problem = smallest(CASES[name])
        peers = {peer: make for peer, make in problem.peers.items() if peer == contender}
        found = _measure.functions(problem._replace(peers=peers), [contender])
        if not isinstance(one := found.get(contender), _case.Own):
            return one
        options = {"xla_backend_optimization_level": 0}
        run = one.fun if problem.host else jax.jit(one.fun, compiler_options=options)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(problem.view(run(*one.args)))]


def on_lines(name):
    """The original on each, other cases on one: `funcgrad bench` looks too, before it times."""
    return pytest.mark.slow if name.startswith("original/") else pytest.mark.one_line


@pytest.mark.parametrize("name", [pytest.param(name, marks=on_lines(name)) for name in CASES])
def test_contenders_agree(name):
    problem = smallest(CASES[name])
    made = {contender: computed(name, contender) for contender in [*CONTENDERS, *problem.peers]}
    made = {one: results for one, results in made.items() if isinstance(results, list)}
    assert {"funcgrad", "jax"} <= set(made)
    _measure.agree(made, problem)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize("name", CASES)
def test_pytorch_agrees(torch, name):
    """Twice, as nothing may be left from the first call; without its compiler, which is slow."""
    problem = smallest(CASES[name])
    if problem.torch is None:
        pytest.skip("has no form in PyTorch")
    spec = problem.torch()
    ways = {
        "torch": _torch._eager(spec, False),
        "compile": _torch._backward(spec, False, _case.same),
        "compile-func": _torch._functional(spec, False, _case.same),
    }
    contenders = {name: way for name, way in ways.items() if isinstance(way, _torch.Contender)}
    assert "torch" in contenders
    for turn in range(2):
        made = {one: _measure.ran(contender)[1] for one, contender in contenders.items()}
        if not (problem.carry and turn):  # whose second call goes on from the first
            _measure.agree({"jax": computed(name, "jax"), **made}, problem)


@pytest.mark.slow
def test_the_networks_are_what_they_say():
    """Each idiom has an effect, so that agreeing on it says something."""
    net = CASES["models/mlp"]
    _, grads, retained = net.build(net.sizes["tiny"]).ours(*smallest(net).args)
    assert grads["frozen"] is None
    assert retained["kept"].value.shape == retained["kept"].grad.shape == (4, 8)
    free = CASES["models/mlp-mask"].build(net.sizes["tiny"])
    assert not np.allclose(free.ours(*free.args)[1]["w00"], grads["w00"])  # the hook clips


def doubled(x):
    return 2 * x


def squares(x):
    return (x * x).sum()


TINY = Problem((np.ones(3, np.float32),), fg.grad(squares), jax.grad(squares))
NAMES = ("funcgrad", "unjitted", "jax", "control")


@pytest.mark.slow
def test_a_measurement_is_complete():
    costs = _measure.measure(TINY, NAMES, QUICK)
    assert list(costs) == list(NAMES)
    mine = costs["funcgrad"]
    assert mine.missing is None
    assert mine.times.minimum > 0
    assert mine.close.rounds
    assert mine.trace.median > 0
    assert mine.lower.median > 0
    assert mine.compile > 0
    assert mine.program.same
    assert mine.program.outputs == mine.program.arguments == 12
    assert costs["control"].trace is None
    assert len(costs["unjitted"].times.rounds) == 3
    plain = json.loads(json.dumps(_worker.plain(mine, costs)))
    assert plain["to_jax"] > 0
    assert plain["to_control"] > 0
    assert plain["trace_to_jax"] > 0
    assert plain["program"]["same"] is True


def stepped(x, y):
    return x - 0.1 * y, y


@pytest.mark.slow
def test_what_a_call_returns_is_what_the_next_one_takes():
    args = np.ones(3, np.float32), np.full(3, 2, np.float32)
    problem = Problem(args, stepped, stepped, carry=1)
    peers = {"from elsewhere": lambda: Own(stepped, (np.zeros(3, np.float32), args[1]))}
    made = _measure.functions(problem._replace(peers=peers), ["funcgrad"])
    mine, theirs = _measure.in_jax(problem, made, []).values()
    for n in (1, 2, 3):
        for start, one in ((1, mine), (0, theirs)):
            np.testing.assert_allclose(_measure.ran(one)[1][0], start - 0.2 * n, rtol=1e-5)


@pytest.mark.slow
def test_contenders_with_names_of_their_own_are_measured_in_all_stages():
    problem = TINY._replace(peers={"another": lambda: doubled, "optax": lambda: doubled})
    costs = _measure.measure(problem, ("funcgrad", "jax"), QUICK)
    assert list(costs) == ["funcgrad", "jax", "another"]
    assert costs["another"].trace.median > 0
    assert costs["another"].program.outputs == 12
    assert costs["another"].close is costs["another"].times


@pytest.mark.slow
def test_what_is_only_traced_is_not_compiled(monkeypatch):
    monkeypatch.setattr(_measure, "told", lambda *_: pytest.fail("it was compiled"))
    monkeypatch.setattr(_measure, "interleaved", lambda *_: pytest.fail("it was timed"))
    costs = _measure.measure(TINY._replace(traced=True), NAMES, QUICK)
    assert list(costs) == ["funcgrad", "jax"]
    assert costs["jax"].trace.median > 0


@pytest.mark.slow
def test_another_program_is_told_apart():
    other = TINY._replace(hand=lambda x: jnp.flip(2 * jnp.flip(x)))
    costs = _measure.measure(other, NAMES, QUICK)
    assert costs["funcgrad"].program.same is False


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [lambda x: 2.001 * x, lambda x: x * jnp.nan])
def test_contenders_that_differ_are_not_timed(wrong, monkeypatch):
    monkeypatch.setattr(_measure, "interleaved", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(BenchError, match=r"`funcgrad` is off by .* of what `jax` returns"):
        _measure.measure(TINY._replace(ours=wrong), NAMES, QUICK)


@pytest.mark.slow
def test_results_of_other_shapes_differ():
    with pytest.raises(BenchError, match=r"returns \[\(3, 1\)\] where `jax` returns \[\(3,\)\]"):
        _measure.measure(TINY._replace(ours=lambda x: 2 * x[:, None]), NAMES, QUICK)


def test_what_is_not_installed_says_so(monkeypatch):
    def missing():
        raise ModuleNotFoundError(name="equinox")

    found = _measure.functions(TINY._replace(peers={"equinox": missing}), CONTENDERS)
    assert found["equinox"] == "not installed"
    monkeypatch.setattr(_torch.importlib.util, "find_spec", lambda name: None)
    told = _torch.contenders(lambda: pytest.fail("it was made"), ["torch", "compile"])
    assert told == {"torch": "not installed", "compile": "not installed"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_a_contender_that_fails_is_a_column_that_says_why(torch):
    def broken(x):
        raise RuntimeError("cannot  be\ntraced")

    problem = TINY._replace(torch=lambda: Torch(TINY.args, loss=broken, eager=lambda x: 2 * x))
    costs = _measure.measure(problem, ("funcgrad", "jax", "torch", "compile"), QUICK)
    assert costs["torch"].times
    assert costs["compile"].missing.startswith("fails: ")
    spec = Torch(TINY.args, eager=doubled, why="is left out")
    told = _torch.contenders(lambda: spec, ["compile", "compile-func"])
    assert told == {"compile": "is left out", "compile-func": "is left out"}


def test_a_missing_compiler_is_named():
    class InvalidCxxCompiler(RuntimeError):
        pass

    assert _torch.reason(InvalidCxxCompiler("no working compiler")) == "no C++ compiler"


@pytest.mark.slow
def test_the_control_takes_and_gives_what_ours_does():
    problem = smallest(CASES["original/in18-20"])
    args = jax.device_put(problem.args)
    made = _measure.empty(problem.ours, args)(*args)
    want = problem.ours(*args)
    assert jax.tree.structure(made) == jax.tree.structure(want)
    assert all(not leaf.any() for leaf in jax.tree.leaves(made))
    again = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), made, want)
    assert all(jax.tree.leaves(again))


def test_programs_are_compared_without_names():
    def text(fun):
        return normalized(jax.jit(fun).lower(jnp.ones(3)).compile().as_text())

    assert text(lambda x: jnp.sin(x) * 2) == text(lambda other: jnp.sin(other) * 2)
    assert text(lambda x: jnp.sin(x) * 2) != text(lambda x: jnp.sin(x) * 3)


def test_selection():
    names = lambda *args, **options: [(c.name, s) for c, s in _case.selected(*args, **options)]
    assert names(["original/in21"]) == [("original/in21", "tiny")]
    assert ("models/mlp-hook", "tiny") not in names(["models"])
    assert ("models/mlp-hook", "tiny") in names(["models/*"])
    assert names(["models/mlp"], ["large"]) == [("models/mlp", "large")]
    assert names(["sweeps/n"], quick=True) == [("sweeps/n", n) for n in ("1", "100", "10000")]
    assert names(["loops/equal-memory", "original/in21"], ["64x100", "tiny"]) == [
        ("original/in21", "tiny"),
        ("loops/equal-memory", "64x100"),
    ]
    assert CASES["sweeps/n"].size("7") == 7
    for size in ("7x7", "0", "large"):
        assert CASES["sweeps/n"].size(size) is None
    assert {name for name, _ in names()} == {c.name for c in CASES.values() if not c.extra}


@pytest.mark.slow
def test_times_are_of_every_call_in_every_round():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = _timer.interleaved(calls, rounds=3)
    assert order == list("ab" + "ab" + "ba" + "ab")
    assert all(len(each.rounds) == 3 and each.minimum > 0 for each in times.values())


@pytest.mark.slow
def test_a_short_call_is_repeated_to_last():
    count = []
    _timer.interleaved({"a": lambda: count.append(1)}, rounds=1, at_least=1e-3)
    assert len(count) > 2


# A report that was never measured: two cells, a sweep, a check, and a case that failed.


def cost(median, to_jax=1.0, trace=1.0, same=True, **more):
    program = dict.fromkeys(_measure.Program._fields, 8) | {"same": same}
    return {
        **{"median": median, "low": 0.9 * median, "high": 1.1 * median, "least": median},
        **{"rounds": 5, "compile": 0.1, "trace": 0.01, "lower": 0.01, "lower_to_jax": 1.0},
        **{"to_jax": to_jax, "to_control": 1.2, "trace_to_jax": trace, "program": program},
        **more,
    }


def result(case, size, costs, **more):
    told = {"about": "", "sweep": None, "dispatch": False, "host": False, "seconds": 1.0}
    return {"case": case, "size": size, **told, "costs": costs, **more}


def made():
    torch = {"median": 40e-6, "low": 39e-6, "high": 41e-6, "compile": 0.0}
    cells = {"funcgrad": cost(10e-6, 1.01), "jax": cost(10e-6), "torch": torch}
    slow = {"funcgrad": cost(10e-6, 1.3, 1.4, same=False, to_control=1.7), "jax": cost(8e-6)}
    slow["equinox"] = {"missing": "not installed"}
    sweep = [
        result("sweeps/n", n, {"funcgrad": cost(int(n) * 1e-6), "jax": cost(1e-6)}, sweep="numbers")
        for n in ("1", "100")
    ]
    return {
        "header": {
            "device": "cpu: cpu",
            "processor": "",
            "threads": 2,
            "jax": "1",
            "torch": "2",
            "date": "2026-01-01",
        },
        "results": [
            result("original/in21", "tiny", cells, dispatch=True),
            result("original/in22", "tiny", slow, dispatch=True),
            *sweep,
            {"case": "models/mlp", "size": "tiny", "error": "`jax` is off by 1"},
        ],
    }


def test_verdicts_name_the_misses():
    report = made()
    missed = {(v.rule, v.case): v.number for v in _report.verdicts(report) if not v.holds}
    assert missed == {
        ("original", "original/in21 tiny"): pytest.approx(4.0),
        ("fastest", "original/in22 tiny"): 1.3,
        ("run", "original/in22 tiny"): 1.3,
        ("trace", "original/in22 tiny"): 1.4,
        ("dispatch", "original/in22 tiny"): 1.7,
    }
    lines = _report.verdict_lines(report)
    assert "funcgrad, jitted, runs within 2 % of hand-written JAX: 3 of 4" in lines
    assert "  original/in22 tiny: 1.30 (the programs have equal flops, bytes and memory)" in lines


def test_a_faster_contender_is_named():
    report = made()
    report["results"][0]["costs"]["torch"]["median"] = 5e-6
    (miss,) = [
        v for v in _report.verdicts(report) if (v.rule, v.case) == ("fastest", "original/in21 tiny")
    ]
    assert (miss.number, miss.holds, miss.note) == (pytest.approx(2.0), False, "PyTorch, eager")


def test_a_check_is_not_held_against_jax_by_hand():
    check = result("checks/x", "tiny", {"funcgrad": cost(2.0), "jax": cost(1.0)}, host=True)
    assert {v.rule for v in _report.verdicts({"header": {}, "results": [check]})} == {"fastest"}


def test_tables_show_what_is_missing_and_what_failed():
    report = made()
    head, *rows = _report.times(report)
    assert head[:3] == ["case", "size", "funcgrad, jitted"]
    assert head[-1] == "peer"
    assert rows[0][2] == "10.0 µs ±10%"
    assert rows[1][-1] == "Equinox: not installed"
    assert rows[-1][2] == "`jax` is off by 1"
    assert {len(row) for row in [head, *rows]} == {len(head)}
    programs = _report.programs(report)
    assert [row[4] for row in programs[1:3]] == ["the same", "equal costs"]
    assert _report.stages(report)[1][2:5] == ["10.0 ms", "1.00", "10.0 ms"]
    for table in (programs, _report.stages(report)):
        assert {len(row) for row in table} == {len(table[0])}
        assert len(_report.markdown(table).splitlines()) == len(table) + 1


def test_a_closer_look_has_a_row_for_each_contender():
    costs = {"funcgrad": cost(10e-6, 1.25), "jax": cost(8e-6), "few": cost(9e-6, 1.1)}
    costs["few"]["program"]["temporary"] = 2
    costs["torch"] = {"missing": _case.NO_FORM}
    costs["equinox"] = {"missing": "not installed"}
    costs["traced"] = {"trace": 0.02, "trace_to_jax": 2.0}
    look = result("loops/look", "8x10", costs, closer=True)
    ordinary, closer = _report.split(made() | {"results": [*made()["results"], look]})
    assert ordinary == made()
    head, *rows = _report.closer(closer)
    assert {(len(row), row[0]) for row in rows} == {(len(head), "loops/look 8x10")}
    assert [row[1] for row in rows] == [
        *("funcgrad, jitted", "JAX by hand, jitted", "few", "Equinox", "traced"),
    ]
    mine, _, few, missing, traced = (row[2:] for row in rows)
    assert mine[:3] == ["10.0 µs ±10%", "10.0 µs", "1.25"]
    assert few[-2:] == ["2", "0.25"]
    assert missing == ["not installed", *["-"] * (len(head) - 3)]
    assert traced[4:6] == ["20.0 ms", "2.00"]


def test_a_report_survives_the_way_through_a_file(tmp_path):
    path = tmp_path / "report.json"
    report = _report.rounded(made())
    write_whole(path, _report.as_json(report))
    assert _report.read(path) == report
    assert [path] == list(tmp_path.iterdir())


def test_ratios_to_an_earlier_report():
    new, old = made(), made()
    new["results"][0]["costs"]["funcgrad"] |= {"median": 20e-6, "low": 19e-6, "high": 21e-6}
    new["results"][0]["costs"]["funcgrad"]["program"]["temporary"] = 4
    new["header"]["jax"] = "1.1"
    head, first, second, *_ = _report.comparison(new, old)
    assert first[head.index("funcgrad, jitted")] == "2.00"
    assert second[head.index("funcgrad, jitted")] == "(1.00)"
    assert first[head.index("temporary")] == "0.50"
    assert _report.differences(new, old) == ["jax: 1 then, 1.1 now"]


@pytest.mark.one_line
@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_a_plot_has_a_panel_for_each_case(form):
    figure = _plot.figure(made())
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]
    assert titles == ["original/in21", "original/in22", "sweeps/n"]
    assert figure.axes[2].lines
    content = _plot.drawn(made(), form)
    assert content.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[form])


def test_every_contender_has_a_colour():
    assert set(_plot.COLORS) == set(CONTENDERS)


@pytest.mark.one_line
def test_nothing_to_draw_is_refused():
    with pytest.raises(BenchError, match="nothing was measured"):
        _plot.figure({"header": {}, "results": [{"case": "a", "size": "b", "error": "c"}]})


FAKE = """
import json, os, sys
job = json.load(sys.stdin)
print(json.dumps({"header": {"cpus": sorted(os.sched_getaffinity(0))}}), flush=True)
for name, size in job["jobs"]:
    if name.endswith("in22"):
        print("out of memory", file=sys.stderr, flush=True)
        os._exit(9)
    told = {"case": name, "size": size, "omp": os.environ["OMP_NUM_THREADS"]}
    print(json.dumps(told), flush=True)
"""


def fake(monkeypatch, code):
    monkeypatch.setattr(
        _run, "START", "import os\nos.sched_setaffinity(0, {cpus})\nexec(" + repr(code) + ")"
    )


def test_after_a_process_that_died_the_next_case_runs(monkeypatch):
    fake(monkeypatch, FAKE.replace("{", "{{").replace("}", "}}"))
    jobs = [(CASES[f"original/in{n}"], "tiny") for n in (21, 22, 23)]
    seen = []
    report = _run.run(jobs, _run.Setting(["jax"], threads=1), seen.append)
    assert [one["case"] for one in seen] == ["original/in21", "original/in22", "original/in23"]
    assert seen[1]["error"] == "the process died: out of memory"
    assert seen[0]["omp"] == "1"
    assert len(report["header"]["cpus"]) == 1
    assert report["results"] == seen


def test_a_process_that_never_starts_is_an_error(monkeypatch):
    fake(monkeypatch, "raise SystemExit('no such device')")
    with pytest.raises(BenchError, match="nothing could be measured on tpu: no such device"):
        _run.run([(CASES["original/in21"], "tiny")], _run.Setting(["jax"], device="tpu"))


def test_the_environment_gives_everyone_the_same_threads(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    made = _run.environment("gpu", 3)
    assert {made[n] for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")} == {"3"}
    assert made["OMP_WAIT_POLICY"] == "ACTIVE"
    assert made["JAX_PLATFORMS"] == "cuda"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One true run of the command, with everything it can write."""
    folder = tmp_path_factory.mktemp("bench")
    files = {name: folder / name for name in ("new.json", "plot.svg", "old.json")}
    files["old.json"].write_text(_report.as_json(made()))
    done = subprocess.run(
        [sys.executable, "-m", "funcgrad", "bench", "original/in21", "--quick",
         "--contenders", "funcgrad,jax,control", "--json", files["new.json"],
         "--plot", files["plot.svg"], "--compare", files["old.json"], "--threads", "1"],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, files, folder


@pytest.mark.slow
def test_the_command_measures_shows_and_writes(run):
    done, files, folder = run
    report = _report.read(files["new.json"])
    (one,) = report["results"]
    assert one["case"] == "original/in21"
    assert one["costs"]["funcgrad"]["program"]["same"] is True
    assert list(one["costs"]) == ["funcgrad", "jax", "control"]
    assert report["header"]["threads"] == 1
    assert report["header"]["jax"] == jax.__version__
    assert b"<svg" in files["plot.svg"].read_bytes()
    assert sorted(folder.iterdir()) == sorted(files.values())
    assert "original/in21 tiny: funcgrad" in done.stderr
    for words in ("Verdicts", "New / old", "device: cpu", "threads: 2 then, 1 now"):
        assert words in done.stdout


REFUSED = [
    (["nosuch"], "there is no case 'nosuch'; there are original/in18-20, "),
    (["original", "--size", "huge"], "there is no size 'huge' in these cases: tiny"),
    (["--contenders", "jax,tinygrad"], "there is no contender 'tinygrad'; there are funcgrad, "),
    (["--json", "/nowhere/x.json"], "/nowhere/x.json: cannot be written: there is no folder"),
    (["--plot", "x.gif"], "x.gif: a plot is written as .svg, .png, .pdf"),
    (["--compare", "pyproject.toml"], "pyproject.toml: cannot be read as a report"),
    (["--rounds", "0"], "'--rounds'"),
    (["--device", "abacus"], "'abacus' is not one of 'cpu', 'gpu', 'tpu'"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_what_cannot_be_run_is_refused_on_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(_run, "run", lambda *_: pytest.fail("it ran"))
    assert cli.status(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("funcgrad: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err


def test_a_file_that_is_json_and_no_report_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text("[]")
    with pytest.raises(BenchError, match=r"other\.json: is no report"):
        _report.read(path)


def test_the_list_has_every_case(capsys):
    assert cli.status(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0].removesuffix(" (extra)") for line in lines] == list(CASES)


def test_the_pages_show_the_committed_results():
    """`python tests/bench_page.py` brings them in step."""
    found = page.reports()
    for name, make in page.PAGES.items():
        text = (ROOT / name).read_text()
        assert text.count(page.BEGIN) == text.count(page.END) == 1
        assert page.renewed(text, make(found)) == text, name
    assert {path.stem for path in page.RESULTS.glob("*.svg")} == set(found)


def test_committed_results_are_whole():
    for name, report in page.reports().items():
        failed = [one["case"] for one in report["results"] if "error" in one]
        assert not failed, name
        assert report["header"]["device"].startswith(name)


def test_a_page_shows_every_result():
    text = page.tables({"cpu": made()})
    assert "### CPU" in text
    assert "| original/in22 | tiny | 10.0 µs ±10% |" in text
    assert "    - original/in22 tiny: 1.30" in text
    assert "- models/mlp tiny failed: `jax` is off by 1" in text
    assert "`original/in21` | tiny | 10.0 µs | 10.0 µs | 40.0 µs |  |  |" in page.short(
        {"cpu": made()}
    )
