"""`compiled`: its numbers are those of JAX, and each planted fault of communication is found."""

import importlib.util
import inspect
import json
import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import funcgrad as fg
from funcgrad.cli import status
from funcgrad.tools.compiled import program

MESH = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
HERE = __file__


def struct(shape, *spec, dtype=jnp.float32, mesh=MESH):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(*spec)))


def hold(x, *spec):
    return lax.with_sharding_constraint(x, NamedSharding(MESH, P(*spec)))


def mapped(fun, in_specs, out_specs):
    return jax.shard_map(fun, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def line(fun, text):
    """The line of a function's source that holds a text."""
    lines, start = inspect.getsourcelines(fun)
    [place] = [number for number, one in enumerate(lines) if text in one]
    return start + place


# Each fault: a function, its arguments, the text of its line, and what is found there.


def reduced_in_the_loop(w, xs):
    def body(total, x):
        return total + lax.psum(x.T @ jnp.sin(x @ w), "data"), None  # fault

    run = lambda w, xs: lax.scan(body, jnp.zeros_like(w), xs)[0]
    return mapped(run, (P(), P(None, "data")), P())(w, xs)


def gathered_in_the_loop(ws, x):
    def body(h, w):
        return jnp.tanh(h @ lax.all_gather(w, "data", tiled=True)), None  # fault

    run = lambda ws, x: lax.scan(body, x, ws)[0]
    return mapped(run, (P(None, "data"), P()), P())(ws, x)


def all_weights_at_once(ws, x):
    def run(ws, x):
        whole = lax.all_gather(ws, "data", axis=1, tiled=True)  # fault
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, whole)[0]

    return mapped(run, (P(None, "data"), P()), P())(ws, x)


def replicated_batch(w, x):
    x = lax.with_sharding_constraint(jnp.cos(x), NamedSharding(MESH, P()))  # fault
    return jnp.sin(x @ w)


def wrong_axis(x):
    return mapped(lambda x: lax.psum(jnp.sin(x), "model"), P("data"), P("data"))(x)  # fault


def both_axes(x):
    run = lambda x: lax.psum(jnp.sin(x), ("data", "model"))  # fault
    return mapped(run, P("data"), P())(x)


def transposed_shards(x):
    return hold(jnp.sin(hold(x, "data", None)), None, "data")  # fault


def neighbours_in_the_loop(x):
    ring = [(i, (i + 1) % 4) for i in range(4)]

    def body(x, _):
        return jnp.sin(lax.ppermute(x, "data", ring)), None  # fault

    return mapped(lambda x: lax.scan(body, x, length=3)[0], P("data"), P("data"))(x)


def scattered_in_the_loop(x):
    def body(total, x):
        part = lax.psum_scatter(jnp.sin(x), "data", tiled=True)  # fault
        return total + part, None

    run = lambda x: lax.scan(body, jnp.zeros((4, 8)), x)[0]
    return mapped(run, P(), P("data"))(x)


def metrics_in_full_precision(x):
    run = lambda x: lax.psum(jnp.sin(x).astype(jnp.float32), "data")  # fault
    return mapped(run, P("data"), P())(x)


def exchanged_all_to_all(x):
    run = lambda x: lax.all_to_all(x, "data", 1, 0, tiled=True)  # fault
    return mapped(lambda x: jnp.sin(run(x)), P("data"), P(None, "data"))(x)


def until_the_norm_is_small(x):
    def smaller(x):
        return x / (2 + lax.pmax(jnp.max(x), "data"))  # fault

    run = lambda x: lax.while_loop(lambda x: jnp.sum(x) > 1, smaller, x)
    return mapped(run, P("data"), P("data"))(x)


W, WS, X, XS = (8, 8), (6, 8, 8), (16, 8), (6, 16, 8)
FAULTS = {
    reduced_in_the_loop: ([(W,), (XS, None, "data")], "all-reduce", ("data",), 256, (6,)),
    gathered_in_the_loop: ([(WS, None, "data"), (X,)], "all-gather", ("data",), 256, (6,)),
    all_weights_at_once: ([(WS, None, "data"), (X,)], "all-gather", ("data",), 1536, ()),
    replicated_batch: ([(W,), (X, "data")], "all-gather", ("data",), 512, ()),
    wrong_axis: ([(X, "data")], "all-reduce", ("model",), 128, ()),
    both_axes: ([(X, "data")], "all-reduce", ("data", "model"), 128, ()),
    transposed_shards: ([(X, "data")], "all-to-all", ("data",), 128, ()),
    neighbours_in_the_loop: ([(X, "data")], "collective-permute", ("data",), 128, (3,)),
    scattered_in_the_loop: ([(XS,)], "reduce-scatter", ("data",), 512, (6,)),
    metrics_in_full_precision: ([(X, "data")], "all-reduce", ("data",), 128, ()),
    exchanged_all_to_all: ([(X, "data")], "all-to-all", ("data",), 128, ()),
    until_the_norm_is_small: ([(X, "data")], "all-reduce", ("data",), 4, (None,)),
}


@pytest.mark.parametrize("fun", FAULTS, ids=lambda fun: fun.__name__)
def test_a_planted_fault_is_found_at_its_line(fun):
    args, kind, axes, size, loops = FAULTS[fun]
    half = jnp.bfloat16 if fun is metrics_in_full_precision else jnp.float32
    found = fg.compiled(fun, *(struct(shape, *spec, dtype=half) for shape, *spec in args))
    [one] = found.collectives
    assert (one.kind, one.axes, one.bytes, one.loops) == (kind, axes, size, loops)
    place = (HERE, line(fun, "# fault"))
    if fun is replicated_batch and one.file is None:  # as JAX 0.12 lets XLA know it
        place, told = (None, None), one.scope
        assert told == "x"
    assert (one.file, one.line, one.dtypes) == (*place, ("f32",))
    assert found.collectives.inside_loops == ([one] if loops else [])


def test_one_reduction_after_the_loop_is_none_inside():
    def step(w, xs):
        def run(w, xs):
            add = lambda total, x: (total + x.T @ jnp.sin(x @ w), None)
            with jax.named_scope("last"):
                return lax.psum(lax.scan(add, jnp.zeros_like(w), xs)[0], "data")

        return mapped(run, (P(), P(None, "data")), P())(w, xs)

    found = fg.compiled(step, struct(W), struct(XS, None, "data"))
    assert found.collectives.inside_loops == []
    assert [(one.kind, one.scope, one.times) for one in found.collectives] == [
        ("all-reduce", "last", 1)
    ]
    assert [loop.trips for loop in found.loops] == [6]


def test_memory_and_costs_are_those_that_jax_tells():
    step = jax.jit(lambda w, x: w - jnp.tanh(x @ w).T @ x, donate_argnums=0)
    args = (struct(W), struct((16, 8), "data"))
    program = step.lower(*args).compile()
    found, stats, costs = (
        fg.compiled(step, *args),
        program.memory_analysis(),
        program.cost_analysis(),
    )
    told = found.memory
    assert (told.arguments, told.results, told.aliased, told.temporaries, told.peak) == (
        *(stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes),
        *(stats.temp_size_in_bytes, stats.peak_memory_in_bytes),
    )
    assert told.aliased == 8 * 8 * 4
    assert (found.flops, found.bytes) == (costs["flops"], costs["bytes accessed"])


def test_it_prints_within_a_hundred_columns_and_as_json():
    found = fg.compiled(reduced_in_the_loop, struct(W), struct(XS, None, "data"))
    assert max(map(len, str(found).splitlines())) <= 100
    assert re.search(r"256 +all-reduce f32 +data +6 +no +test_compiled.py:\d+", str(found))
    made = json.loads(found.to_json())
    assert made["collectives"][0]["axes"] == ["data"]
    assert made["mesh"] == {"data": 4, "model": 2}


@pytest.mark.parametrize(
    ("target", "args", "told"),
    [
        ("tpu", (), "got target='tpu', and wants None"),
        ("cuda:b7:8", (), "a100, h100 or h200"),
        (None, (struct(W, mesh=AbstractMesh((2,), ("x",))),), "AbstractMesh and target=None"),
        (None, (struct(W), struct(W, mesh=jax.make_mesh((8,), ("x",)))), "different meshes"),
    ],
)
def test_what_makes_no_sense_is_refused(target, args, told):
    with pytest.raises(fg.UsageError, match=re.escape(told)):
        fg.compiled(lambda *args: args, *args, target=target)


@pytest.mark.parametrize(("target", "extra"), [("tpu:v5e:2x2", "tpu"), ("cuda:h100:4", "cuda")])
def test_without_the_compiler_the_error_names_the_extra(target, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(fg.MissingExtraError, match=rf"pip install 'funcgrad\[{extra}\]'"):
        fg.compiled(jnp.sin, 1.0, target=target)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("replica_groups={{0,1},{2,3}}, x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4], x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=something else, x", None),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
        ("source_target_pairs={{0,2},{2,0}}, x", [[0, 2], [2, 0]]),
    ],
)
def test_groups_of_devices_are_read_in_each_form(text, want):
    assert program.groups(program.Op("a", "f32[]", "all-reduce", (), f", {text}"), 4) == want


LOOP = """
%test (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %limit = s32[] constant(LIMIT)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%step (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %q = (s32[], f32[8]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %one = s32[] constant(STRIDE)
  %next = s32[] add(%j, %one)
  %x = f32[8] get-tuple-element(%q), index=1
  ROOT %out = (s32[], f32[8]) tuple(%next, %x)
}

ENTRY %main (a: f32[8]) -> (s32[], f32[8]) {
  %a = f32[8] parameter(0)
  %zero = s32[] constant(2)
  %copied = s32[] copy(%zero)
  %both = (s32[], f32[8]) tuple(%copied, %a)
  ROOT %while = (s32[], f32[8]) while(%both), condition=%test, body=%step
}
"""


@pytest.mark.parametrize(
    ("limit", "stride", "want"), [("7", "1", 5), ("0", "1", 0), ("7", "2", None)]
)
def test_constant_bounds_tell_the_trip_count_where_xla_does_not(limit, stride, want):
    text = LOOP.replace("LIMIT", limit).replace("STRIDE", stride)
    assert [loop.trips for loop in program.Program(text, ()).loops] == [want]


def test_the_command(tmp_path, capsys):
    pytest.importorskip("click", reason="click is not installed: pip install 'funcgrad[compare]'")
    file = tmp_path / "step.py"
    file.write_text("import jax\nstep = lambda x: x @ x\nargs = [jax.numpy.ones((4, 4))]\n")
    made = tmp_path / "report.json"
    assert status(["compile", f"{file}:step", "--json", str(made)]) == 0
    assert capsys.readouterr().out.startswith("compiled for cpu: ")
    assert json.loads(made.read_text())["memory"]["arguments"] == 64
    assert status(["compile", f"{file}:missing"]) == 2
    assert "has nothing of that name" in capsys.readouterr().err


TARGETS = {"tpu:v5e:2x4": "libtpu", "cuda:h100:8": "jax_cuda12_plugin"}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("abstract", [False, True])
def test_the_compiler_of_a_device_that_is_not_there(target, abstract):
    for module in (TARGETS[target], "flatbuffers"):
        pytest.importorskip(
            module, reason=f"{module} is not installed: pip install 'funcgrad[tpu,cuda]'"
        )
    mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=MESH.axis_types) if abstract else MESH

    def step(w, xs):
        def body(total, x):
            total = jnp.tanh(total + lax.psum(x.T @ jnp.sin(x @ w), "data"))  # fault
            return total, None

        run = lambda w, xs: lax.scan(body, jnp.zeros_like(w), xs)[0]
        specs = (P(), P(None, "data"))
        return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)(w, xs)

    args = struct((256, 256), mesh=mesh), struct((6, 64, 256), None, "data", mesh=mesh)
    found = fg.compiled(jax.jit(step, donate_argnums=0), *args, target=target)
    [one] = found.collectives.inside_loops
    assert (one.kind, one.axes, one.bytes) == ("all-reduce", ("data",), 256 * 256 * 4)
    assert (one.file, one.line) == (HERE, line(step, "# fault"))
    assert one.times == 6
    assert found.fits
    assert found.memory.aliased == 256 * 256 * 4
    assert (found.flops is None) == target.startswith("cuda")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_what_does_not_fit_is_told(target):
    for module in (TARGETS[target], "flatbuffers"):
        pytest.importorskip(
            module, reason=f"{module} is not installed: pip install 'funcgrad[tpu,cuda]'"
        )
    big = jax.ShapeDtypeStruct((200_000, 200_000), jnp.float32)
    found = fg.compiled(lambda x: jnp.tanh(x) @ x, big, target=target.replace("2x4", "2x2"))
    assert found.fits is False
    assert "does not fit" in str(found)
    assert (
        found.refused == "" if target.startswith("cuda") else "RESOURCE_EXHAUSTED" in found.refused
    )
