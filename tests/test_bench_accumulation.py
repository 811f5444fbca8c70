"""The benchmarks of accumulation: what programs move is read right, contenders agree, it scales."""

import json
import subprocess
import sys

import jax
import pytest

from funcgrad.bench import scaling
from funcgrad.bench.cases import accumulation
from funcgrad.bench.program import Collective, collectives
from funcgrad.bench.scaling import HIDDEN, ROWS, WIDTH, Scale, scale

MODULE = """
%region (a: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %a)
}

%body (c: (f32[2,3], bf16[4])) -> (f32[2,3], bf16[4]) {
  ROOT %r = (f32[2,3]{1,0}, bf16[4]) all-reduce(%c), replica_groups=GROUPS, to_apply=%region
}

%condition (c: (f32[2,3], bf16[4])) -> pred[] {
  ROOT %p = pred[] constant(true)
}

ENTRY %main (x: f32[2,3]) -> f32[8,3] {
  %w = (f32[2,3]{1,0}, bf16[4]) while(%x), condition=%condition, body=%body
  %s = pred[5] collective-permute(%w), source_target_pairs={{0,1}}
  ROOT %g = f32[8,3]{1,0} all-gather-start(%w), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
}
"""


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,2,4},{1,3,5}}", 3),
        ("[4,2]<=[8]", 2),
        ("mesh['data'=4,'model'=2] {'data'}", 4),
        ("mesh['a'=4,'b'=2,'c'=3], device_ids=([4,2]T(1,0)) {'a','c'}", 12),
    ],
)
def test_collectives_are_read_with_their_bytes_groups_and_loops(groups, size):
    assert collectives(MODULE.replace("GROUPS", groups)) == [
        Collective("all-reduce", 4 * 6 + 2 * 4, size, looped=True),
        Collective("collective-permute", 5, 0, looped=False),
        Collective("all-gather", 4 * 24, 4, looped=False),
    ]


@pytest.mark.slow
def test_a_step_with_ours_moves_one_gradient():
    with jax.numpy_dtype_promotion("standard"):  # which optax counts on
        moved = {name: count for name, count, _ in scaling.exchanges((4, 16))}
    assert moved.pop("funcgrad, jitted") == "1"
    assert moved.pop("the whole batch at once") == "1"
    assert set(moved) >= {"JAX by hand, jitted", "accumulate_grad"}
    assert all(words.startswith("16 x ") for words in moved.values()), moved


@pytest.mark.slow
def test_what_moves_is_what_the_parameters_take():
    with jax.numpy_dtype_promotion("standard"):
        step = accumulation.steps((1, 512))["the whole batch at once"]()
        assert scaling.exchanged(step) == ("1", f"{(4 * 3 * 512**2 + 4) / 1e6:.2f}")


CODE = """
import jax, json
jax.config.update("jax_num_cpu_devices", 256)
from funcgrad.bench.scaling import scale
print(json.dumps([scale(devices, model, 16) for devices in (64, 256) for model in (1, 2)]))
"""


@pytest.mark.slow
def test_a_step_scales():
    """In devices and in micro-batches: one collective of one gradient, the same memory."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, check=True, timeout=300
    )
    many = [scale(8, model, count) for model in (1, 2) for count in (4, 16)]
    for row in [*many, *(Scale(*row) for row in json.loads(done.stdout))]:
        weights = 4 * 2 * WIDTH * HIDDEN // row.model
        assert (row.reductions, row.reduced) == (1, weights + 4)
        assert row.looped == row.model - 1  # the activations, which cross the axis of the weights
        assert row.argument == weights + 4 * row.microbatches * ROWS * WIDTH
        assert weights <= row.temporary <= 1.05 * weights
    assert len({row.temporary for row in many if row.model == 1}) == 1
