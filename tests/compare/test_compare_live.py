"""`with_torch`: right ports agree, planted faults are found where they were planted."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcgrad as fg
from funcgrad.compare import assert_matches_torch, capture, with_torch
from funcgrad.compare.live.inputs import to_jax
from funcgrad.errors import ParityError


def normal(seed, *shape, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# Four models: a torch module, its port with a place for each fault, inputs, and how names go.


def mlp(torch):
    class MLP(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.fc3 = (torch.nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            h1 = capture(torch.tanh(self.fc1(x)), "h1")
            h2 = capture(torch.nn.functional.gelu(self.fc2(h1)), "h2")
            return (capture(self.fc3(h2), "h3") ** 2).mean()

    def port(fault, p, x):
        dense = lambda name, x: x @ p[name]["w"] + p[name]["b"]
        if fault == "missing bias":
            p = {**p, "fc2": {**p["fc2"], "b": 0.0}}
        if fault == "transposed weight":
            p = {**p, "fc2": {**p["fc2"], "w": p["fc2"]["w"].T}}
        if fault == "detached weight":
            p = {**p, "fc2": {**p["fc2"], "w": fg.detach(p["fc2"]["w"])}}
        h1 = fg.retain_grad(jnp.tanh(dense("fc1", x)), "h1")
        if fault == "sign flipped":
            h1 = fg.register_hook(h1, lambda g: -g)
        h2 = jax.nn.gelu(dense("fc2", h1), approximate=fault == "tanh gelu")
        h2 = fg.retain_grad(fg.detach(h2) if fault == "detach" else h2, "h2")
        h3 = fg.retain_grad(dense("fc3", h2), "h3")
        return jnp.mean(h3**2)

    names = {}
    for i in (1, 2, 3):
        names[f"fc{i}.weight"] = (f"fc{i}/w", lambda w: w.T)
        names[f"fc{i}.bias"] = f"fc{i}/b"
    return MLP(), port, (normal(0, 5, 6),), {"names": names}


def cnn(torch):
    nn = torch.nn

    class CNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.norm, self.relu = (
                nn.Conv2d(3, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(inplace=True),
            )
            self.pool, self.conv2, self.head = (
                nn.MaxPool2d(2),
                nn.Conv2d(4, 5, 3, stride=2),
                nn.Linear(5, 2),
            )

        def forward(self, x):
            x = self.pool(self.relu(self.norm(self.conv1(x))))
            return self.head(self.conv2(x).mean((2, 3)))

    def port(fault, p, x):
        conv = lambda x, w, **k: lax.conv_general_dilated(
            x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **k
        )
        x = x.transpose(0, 2, 3, 1)
        w = p["conv1.weight"]
        w = w.transpose(1, 0, 2, 3) if fault == "transposed kernel" else w
        x = conv(x, w, window_strides=(1, 1), padding="SAME")
        x = fg.retain_grad(x + p["conv1.bias"], "conv1")
        scale = p["norm.weight"] / jnp.sqrt(p["norm.running_var"] + 1e-5)
        x = fg.retain_grad((x - p["norm.running_mean"]) * scale + p["norm.bias"], "norm")
        x = jax.nn.relu(x)
        window = {
            "window_dimensions": (1, 2, 2, 1),
            "window_strides": (1, 2, 2, 1),
            "padding": "VALID",
        }
        x = lax.reduce_window(x, -jnp.inf, lax.max, **window)
        x = fg.retain_grad(x, "pool")
        x = fg.register_hook(x, lambda g: -g) if fault == "sign flipped" else x
        x = fg.retain_grad(
            conv(x, p["conv2.weight"], window_strides=(2, 2), padding="VALID") + p["conv2.bias"],
            "conv2",
        )
        return x.mean((1, 2)) @ p["head.weight"].T + p["head.bias"]

    torch.manual_seed(0)
    model = CNN()
    model(torch.randn(8, 3, 10, 10))
    to_nhwc = lambda v: v.transpose(0, 2, 3, 1)
    how = {
        "names": {"conv*.weight": lambda w: w.transpose(2, 3, 1, 0)},
        "intermediates": {"conv*": to_nhwc, "norm": to_nhwc, "pool": to_nhwc},
        "modules": ("conv*", "norm", "pool", "head"),
    }
    return model.eval(), port, (normal(1, 2, 3, 10, 10),), how


def lstm(torch):
    class Unrolled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.LSTMCell(3, 4)

        def forward(self, xs):
            h = c = torch.zeros(2, 4)
            for x in xs:
                h, c = self.cell(x, (h, c))
                capture(c, "c")
                capture(h, "h")
            return h

    def port(fault, p, xs):
        def step(state, x):
            h, c = state
            gates = x @ p["cell.weight_ih"].T + h @ p["cell.weight_hh"].T
            i, f, g, o = jnp.split(gates + p["cell.bias_ih"] + p["cell.bias_hh"], 4, -1)
            i, f = (f, i) if fault == "gate order" else (i, f)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            c = fg.retain_grad(c, "c")
            h = fg.retain_grad(jax.nn.sigmoid(o) * jnp.tanh(c), "h")
            if fault == "not fed back":
                return (jnp.zeros_like(h), c), h
            return (fg.detach(h) if fault == "detached state" else h, c), h

        zeros = jnp.zeros((2, 4))
        return lax.scan(step, (zeros, zeros), xs)[1][-1]

    return Unrolled(), port, (normal(2, 5, 2, 3),), {}


def transformer(torch):
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(8), nn.LayerNorm(8)
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            y = capture(self.ln1(x), "ln1")
            q, k, v = (m(y).unflatten(-1, (2, 4)).transpose(1, 2) for m in (self.q, self.k, self.v))
            scores = capture(q @ k.mT / 2, "scores")
            mask = torch.ones(scores.shape[-2:], dtype=bool).tril()
            probs = capture(scores.masked_fill(~mask, -torch.inf).softmax(-1), "probs")
            x = x + capture(self.o((probs @ v).transpose(1, 2).flatten(2)), "attn")
            y = capture(self.ln2(x), "ln2")
            return x + capture(self.down(torch.nn.functional.gelu(self.up(y))), "mlp")

    def port(fault, p, x):
        def norm(name, x, eps):
            centred = x - x.mean(-1, keepdims=True)
            scaled = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)
            return fg.retain_grad(scaled * p[f"{name}.weight"] + p[f"{name}.bias"], name)

        dense = lambda name, x: x @ p[f"{name}.weight"].T + p[f"{name}.bias"]
        y = norm("ln1", x, 1e-6 if fault == "wrong eps" else 1e-5)
        heads = lambda x: x.reshape(*x.shape[:-1], 2, 4).swapaxes(1, 2)
        q, k, v = (heads(dense(name, y)) for name in "qkv")
        scores = q @ k.swapaxes(-1, -2)
        scores = fg.retain_grad(scores if fault == "missing scale" else scores / 2, "scores")
        if fault == "scaled gradient":
            scores = fg.register_hook(scores, lambda g: g / 2)
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        probs = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
        probs = fg.retain_grad(probs, "probs")
        probs = fg.detach(probs) if fault == "detach" else probs
        mixed = (probs @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + fg.retain_grad(dense("o", mixed), "attn")
        y = norm("ln2", x, 1e-5)
        y = jax.nn.gelu(dense("up", y), approximate=False)
        return x + fg.retain_grad(dense("down", y), "mlp")

    return Block(), port, (normal(3, 2, 5, 8),), {}


MODELS = {f.__name__: f for f in (mlp, cnn, lstm, transformer)}


@functools.cache
def run(torch, name, fault=None, check=with_torch, **options):
    torch.manual_seed(0)
    module, port, inputs, how = MODELS[name](torch)
    fun = functools.partial(port, fault)
    return check(module, fun, *inputs, params=module, **{**how, **options})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "jit"), [*((name, True) for name in MODELS), ("mlp", False), ("lstm", False)]
)
def test_a_right_port_agrees(torch, name, jit):
    # Tiny inputs of a network that pools its maxima are ties within the rounding of its bias.
    n = (5 if name == "cnn" else 7) if jit else 0
    report = run(torch, name, check=assert_matches_torch, jit=jit, n=n)
    assert report.ok
    assert len(report.cases) == n
    assert report.forward is report.backward is None
    assert {row.kind for row in report.rows} >= {"input", "parameter", "intermediate", "output"}
    assert not report.only_jax


FORWARD = {
    ("mlp", "missing bias"): "h2",
    ("mlp", "transposed weight"): "h2",
    ("mlp", "tanh gelu"): "h2",
    ("cnn", "transposed kernel"): "conv1",
    ("lstm", "gate order"): "c[0]",
    ("lstm", "not fed back"): "c[1]",
    ("transformer", "wrong eps"): "ln1",
    ("transformer", "missing scale"): "scores",
}
BACKWARD = {
    ("mlp", "sign flipped"): "h1",
    ("mlp", "detached weight"): "fc2.weight",
    ("mlp", "detach"): "fc2.bias",
    ("cnn", "sign flipped"): "pool",
    ("lstm", "detached state"): "h[3]",
    ("transformer", "detach"): "probs",
    ("transformer", "scaled gradient"): "scores",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), FORWARD)
def test_a_fault_in_a_value_is_found_at_its_layer(torch, name, fault):
    report = run(torch, name, fault)
    assert not report.ok
    assert report.forward.name == FORWARD[name, fault]
    assert f"first divergence forward: {report.forward.name}" in str(report)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), BACKWARD)
def test_a_fault_in_a_gradient_is_found_at_its_layer(torch, name, fault):
    report = run(torch, name, fault)
    assert not report.ok
    assert report.forward is None
    assert report.backward.name == BACKWARD[name, fault]
    assert f"first divergence backward: {report.backward.name}" in str(report)


def test_what_lies_next_to_a_divergence_is_named(torch):
    report = run(torch, "mlp", "missing bias")
    assert set(report.forward.near) == {"h1", "fc2.weight", "fc2.bias"}
    assert run(torch, "mlp", "sign flipped").backward.near == ("h2",)
    assert "2.0 times" not in report.row("h2").value.reason


@pytest.mark.parametrize(
    ("name", "fault", "row", "what", "words"),
    [
        ("mlp", "sign flipped", "h1", "grad", "the sign is the opposite"),
        ("mlp", "detach", "h1", "grad", "jax has 0 everywhere"),
        ("transformer", "missing scale", "scores", "value", "jax is 2 times torch"),
        ("transformer", "scaled gradient", "q.weight", "grad", "jax is 0.5 times torch"),
    ],
)
def test_plain_slips_are_explained(torch, name, fault, row, what, words):
    assert words in getattr(run(torch, name, fault).row(row), what).reason


def test_swapped_axes_are_explained(torch):
    report = with_torch(lambda x: x.mT @ x, lambda x: (x.T @ jnp.flip(x, 0)).T, normal(0, 3, 3))
    assert "swapped" not in report.row("output").value.reason
    report = with_torch(lambda x, y: x @ y, lambda x, y: (x @ y).T, *normal(0, 2, 3, 3))
    assert "the last two axes are swapped" in report.row("output").value.reason


# The sharpness of the verdict, and what it forgives.


def test_one_number_off_by_a_few_parts_in_a_million_is_found_and_shown(torch):
    wrong = lambda x: 2 * x.at[1, 2].multiply(1 + 6e-6)
    found = with_torch(lambda x: 2 * x, wrong, np.ones((2, 3), "float32")).row("output").value
    assert (found.ok, found.at, found.differing, found.compared) == (False, (1, 2), 1, 6)
    assert (found.torch, found.max_abs) == (2.0, pytest.approx(1.2e-5, rel=0.02))
    assert found.max_rel == pytest.approx(6e-6, rel=0.02)
    assert found.allowed < found.max_abs


def test_a_gradient_that_is_all_rounding_is_no_fault(torch):
    """A shift before a softmax has no influence: its gradient is 0 but for rounding."""

    def ours(x, b, w):
        return jnp.sum(jax.nn.softmax((x + b[:, None]) * 3) * w)

    inputs = normal(0, 6, 9), normal(1, 6), normal(2, 6, 9)
    theirs = lambda x, b, w: (((x + b[:, None]) * 3).softmax(-1) * w).sum()
    report = assert_matches_torch(theirs, ours, *inputs)
    assert abs(report.row("b").grad.torch) < 1e-5
    assert not with_torch(theirs, lambda x, b, w: ours(x, b, w) + 1e-3 * jnp.sum(b), *inputs).ok


@pytest.mark.slow
def test_so_is_one_through_saturated_attention_and_in_double_precision(torch):
    """Weights so large that attention is all or nothing: its gradients cancel but for rounding."""

    def theirs(x, b):
        return ((40 * (x + b)).softmax(-1) * x**2).sum()

    ours = lambda x, b: jnp.sum(jax.nn.softmax(40 * (x + b)) * x**2)
    assert_matches_torch(theirs, ours, normal(0, 6, 9), normal(1, 6, 1), n=21)
    with jax.enable_x64(True):
        inputs = normal(0, 6, 9, dtype="float64"), normal(1, 6, 1, dtype="float64")
        assert_matches_torch(theirs, ours, *inputs, n=7)
        assert not with_torch(theirs, lambda x, b: ours(x, b) + 1e-9 * jnp.sum(b), *inputs).ok
        wrong = lambda x, i: x[i] * (1 + 1e-9)
        report = with_torch(lambda x, i: x[i], wrong, inputs[0], np.array([1, 2]))
        assert not report.ok
        assert "less well" not in str(report)


def test_a_gradient_wrong_by_half_a_thousandth_is_found(torch):
    wrong = lambda x: fg.register_hook(jnp.sin(x), lambda g: g * 1.0005)
    report = with_torch(torch.sin, wrong, normal(0, 20))
    assert report.forward is None
    assert report.backward.name == "x"
    assert "jax is 1.0005 times torch" not in str(report)  # too close to 1 to be called a factor


def test_tolerances_can_be_given(torch):
    theirs, ours, x = lambda x: x * 2, lambda x: x * 2.02, normal(0, 4)
    assert not with_torch(theirs, ours, x).ok
    assert with_torch(theirs, ours, x, rtol=0.02).ok
    assert not with_torch(theirs, ours, x, rtol=0.005, atol=0).ok
    assert with_torch(theirs, ours, x, rtol=0, atol=1.0).ok


def test_double_precision_is_compared_in_double_precision(torch):
    with jax.enable_x64(True):
        x = normal(0, 5, dtype="float64")
        assert with_torch(torch.sin, jnp.sin, x).ok
        report = with_torch(torch.sin, lambda x: jnp.sin(x) * (1 + 1e-13), x)
        assert not report.ok
        assert report.row("output").dtype == "float64"


@pytest.mark.parametrize("kind", ["numpy", "torch", "params"])
def test_double_precision_is_never_lowered_silently(torch, kind):
    x = normal(0, 3, dtype="float64")
    inputs, options = (x if kind == "numpy" else torch.tensor(x),), {}
    if kind == "params":
        inputs, options = (normal(0, 2),), {"params": torch.nn.Linear(2, 2).double()}
    name = "weight" if kind == "params" else "x"
    with pytest.raises(fg.UsageError, match=f"float64 as {name}.*half the precision.*enable_x64"):
        with_torch(torch.sin, lambda x: x, *inputs, **options)


def test_double_precision_inside_the_torch_function_is_noted(torch):
    report = with_torch(lambda x: x.double() * 2, lambda x: x * 2, normal(0, 3))
    assert report.ok
    assert "torch computed in float64, jax in float32" in str(report)
    strict = with_torch(lambda x: x.double() * 2, lambda x: x * 2, normal(0, 3), strict=True)
    assert not strict.ok
    assert strict.row("output").value.reason == "torch has float64, jax float32"


# Inputs.


def read_only(array):
    array.flags.writeable = False
    return array


INPUTS = {
    "numpy": lambda torch, a: a,
    "read-only": lambda torch, a: read_only(a.copy()),
    "other byte order": lambda torch, a: a.astype(">f4"),
    "jax": lambda torch, a: jnp.asarray(a),
    "torch": lambda torch, a: torch.tensor(a),
    "requires grad": lambda torch, a: torch.tensor(a, requires_grad=True),
    "not a leaf": lambda torch, a: torch.tensor(a, requires_grad=True) * 2,
    "transposed": lambda torch, a: torch.tensor(a).T,
    "with gaps": lambda torch, a: torch.tensor(a)[::2],
    "expanded": lambda torch, a: torch.tensor(a[0]).expand(5, 4),
    "unaligned": lambda torch, a: torch.tensor(a).flatten()[1:],
    "conjugate": lambda torch, a: torch.complex(torch.tensor(a), torch.tensor(a[::-1] + 1)).conj(),
    "complex": lambda torch, a: a + 1j * a[::-1],
    "bfloat16 torch": lambda torch, a: torch.tensor(a).bfloat16(),
    "bfloat16 torch with gaps": lambda torch, a: torch.tensor(a).bfloat16()[:, ::2],
    "bfloat16 jax": lambda torch, a: jnp.asarray(a, "bfloat16"),
    "bfloat16 numpy": lambda torch, a: a.astype(jnp.bfloat16),
    "float16": lambda torch, a: a.astype("float16"),
    "scalar": lambda torch, a: a[0, 0],
    "python float": lambda torch, a: 0.1,
    "python complex": lambda torch, a: 0.1 + 2j,
    "empty": lambda torch, a: a[:0],
}


def numbers(x):
    """What an input holds, as a new NumPy array in double precision."""
    if hasattr(x, "detach"):
        x = x.detach().resolve_conj()
        x = x.numpy() if x.dtype.is_complex else x.double().numpy()
    return np.array(x, np.complex128)


@pytest.mark.parametrize("kind", INPUTS)
def test_an_input_of_any_kind_reaches_both_sides_whole(torch, kind):
    x = INPUTS[kind](torch, normal(0, 6, 4))
    before = numbers(x)
    report = assert_matches_torch(lambda x: x * x, lambda x: x * x, x, strict=True)
    assert report.row("x").grad is not None
    assert report.row("output").value.compared == before.size
    assert with_torch(lambda x: x * x, lambda x: x * x * 2, x).ok == (kind == "empty")
    np.testing.assert_array_equal(numbers(x), before)


def test_trees_numbers_and_integers(torch):
    batch = {"x": normal(0, 4, 3), "index": torch.tensor([2, 0]), "mask": np.array([True, False])}

    def theirs(batch, scales, power, mode):
        assert isinstance(power, int)
        rows = batch["x"][batch["index"]] * batch["mask"][:, None]
        return {"y": (rows * scales[0]) ** power + scales[1], "index": batch["index"]}

    def ours(batch, scales, power, mode):
        assert (power, mode) == (3, "mean")
        rows = batch["x"][batch["index"]] * batch["mask"][:, None].astype("float32")
        return {"index": batch["index"], "y": (rows * scales[0]) ** power + scales[1]}

    report = assert_matches_torch(theirs, ours, batch, [2.0, jnp.ones(3)], 3, "mean", n=7)
    graded = [row.name for row in report.rows if row.grad is not None]
    assert graded == ["batch['x']", "scales[0]", "scales[1]"]
    assert report.row("output['index']").dtype == "int64"
    assert report.row("output['index']").value.jax_dtype == "int32"


@pytest.mark.parametrize("jit", [True, False])
def test_a_bare_integer_output_is_compared_without_gradients(torch, jit):
    x = normal(0, 4, 6)
    report = with_torch(lambda x: x.argmax(-1), lambda x: jnp.argmax(x, -1), x, n=2, jit=jit)
    assert report.ok
    assert report.notes[0] == "gradients are not compared, since no output is floating or complex"
    assert with_torch(lambda x: x.argmax(), jnp.argmax, x, jit=jit).ok
    assert not with_torch(lambda x: x > 0, lambda x: x < 0, x, jit=jit).row("output").value.ok


def test_integers_that_32_bits_do_not_hold_are_refused(torch):
    with pytest.raises(fg.UsageError, match="int64 as i with numbers that JAX's 32 bits do not"):
        with_torch(lambda i: i, lambda i: i, torch.tensor([2**40]))


@pytest.mark.parametrize("name", ["sparse_coo", "meta"])
def test_tensors_without_plain_memory_are_refused(torch, name):
    x = torch.ones(2, 2).to_sparse() if name == "sparse_coo" else torch.ones(2, device="meta")
    with pytest.raises(fg.UsageError, match=f"got a {name} tensor as x"):
        with_torch(lambda x: x, lambda x: x, x)


def test_what_torch_does_to_its_inputs_in_place_reaches_nobody(torch):
    x, index = normal(0, 3), np.array([1, 2])

    def theirs(x, index):
        index -= 1
        x.data *= 100
        return x[index]

    with_torch(theirs, lambda x, index: fg.set_data(x, 100 * x)[index - 1], x, index)
    np.testing.assert_array_equal(x, normal(0, 3))
    assert index.tolist() == [1, 2]
    assert_matches_torch(theirs, lambda x, i: fg.set_data(x, 100 * x)[i - 1], x, index)


def test_parameters_are_read_in_torchs_memory_and_left_alone(torch):
    model = torch.nn.Linear(16, 16)
    assert to_jax(model.weight).unsafe_buffer_pointer() == model.weight.data_ptr()
    before = model.weight.detach().clone()
    ours = lambda p, x: x @ p["weight"].T + p["bias"]
    assert_matches_torch(model, ours, normal(0, 2, 16), params=model)
    assert model.weight.grad is None
    assert torch.equal(model.weight, before)


def test_inputs_on_several_devices_meet_parameters_on_one(torch):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    model = torch.nn.Linear(3, 2)
    x = jax.device_put(normal(0, 8, 3), rows)
    ours = lambda p, x: x @ p["weight"].T + p["bias"]
    assert_matches_torch(model, ours, x, params=model)


# Complex numbers, gradients of the output.


def test_complex_gradients_are_compared_in_pytorchs_convention(torch):
    z = normal(0, 4) + 1j * normal(1, 4)
    theirs = lambda z: (capture(z * z, "w") * z.conj()).abs().sum()
    ours = lambda z: jnp.sum(jnp.abs(fg.retain_grad(z * z, "w") * jnp.conj(z)))
    report = assert_matches_torch(theirs, ours, z)
    assert report.row("w").grad.torch_dtype == "complex64"
    wrong = lambda z: jnp.sum(jnp.abs(fg.register_hook(fg.retain_grad(z * z, "w"), jnp.conj) * z))
    assert with_torch(theirs, wrong, z).backward.name == "w"


def test_a_given_gradient_is_used_on_both_sides(torch):
    given = np.float32([1, 0, -2])
    report = assert_matches_torch(lambda x: x**2, lambda x: x**2, normal(0, 3), gradient=given)
    assert report.row("x").grad.ok
    report = with_torch(lambda x: x * given.sum(), lambda x: x * 3, normal(0, 3), gradient=given)
    assert report.row("x").grad.max_abs == 8


def test_several_outputs_get_random_gradients_decided_by_the_seed(torch):
    def gradient(seed):
        twice = lambda x: {"a": x * 2, "b": (x.sum(),)}
        return assert_matches_torch(twice, twice, normal(0, 3), seed=seed).row("x").grad.torch

    assert gradient(0) == gradient(0) != gradient(1)


def test_what_takes_no_gradient_in_torch_alone_is_a_divergence(torch):
    report = with_torch(lambda x: x.detach() * 2, lambda x: x * 2, normal(0, 3))
    assert report.backward.name == "x"
    assert report.row("x").grad.reason.endswith("torch has 0 everywhere")
    assert "output requires no gradient in PyTorch" in str(report)
    assert with_torch(lambda x: x.detach() * 2, lambda x: fg.detach(x) * 2, normal(0, 3)).ok
    with torch.no_grad():
        assert with_torch(lambda x: x * 2, lambda x: x * 2, normal(0, 3)).ok


def test_hooks_and_in_place_changes_after_a_capture(torch):
    def theirs(x):
        y = capture(x * 3, "y")
        y.register_hook(lambda g: g * 10)
        z = capture(y - 1, "z")
        torch.nn.functional.relu_(z)
        return (z * z).sum() + capture(x, "x itself").sum()

    def ours(x):
        y = fg.register_hook(fg.retain_grad(x * 3, "y"), lambda g: g * 10)
        z = fg.retain_grad(y - 1, "z")
        return jnp.sum(jax.nn.relu(z) ** 2) + jnp.sum(x)

    report = assert_matches_torch(theirs, ours, normal(0, 5))
    assert report.row("y").grad.max_abs is not None
    assert report.only_torch == ("x itself",)
    assert theirs(torch.ones(2, requires_grad=True)).item() == 10.0


# Names.


def test_names_of_one_side_are_reported_and_count_when_strict(torch):
    theirs = lambda x: capture(capture(x * 2, "a") + 1, "b")
    ours = lambda x: fg.retain_grad(fg.retain_grad(x * 2, "a") + 1, "c")
    report = with_torch(theirs, ours, normal(0, 3))
    assert (report.ok, report.only_torch, report.only_jax) == (True, ("b",), ("c",))
    assert "only in torch, not compared: b\nonly in jax, not compared: c" in str(report)
    assert not with_torch(theirs, ours, normal(0, 3), strict=True).ok
    assert with_torch(theirs, ours, normal(0, 3), strict=True, intermediates={"b": "c"}).ok


def test_module_names_stand_for_scopes(torch):
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(3, 3)), torch.nn.Tanh())

    def ours(p, x):
        with jax.named_scope("0"):
            x = fg.retain_grad(x @ p["0.0.weight"].T + p["0.0.bias"], "0")
        return jnp.tanh(x)

    report = assert_matches_torch(model, ours, normal(0, 2, 3), params=model, modules=True)
    assert report.row("0.0").jax_name == "0/0"
    assert report.only_torch == ("0", "1")
    assert "0.0 = 0/0" in str(report)


def test_modules_that_return_several_tensors_pair_with_tagged_trees(torch):
    model = torch.nn.LSTM(2, 2)

    def ours(p, xs):
        def step(state, x):
            h, c = state
            gates = x @ p["weight_ih_l0"].T + h @ p["weight_hh_l0"].T
            i, f, g, o = jnp.split(gates + p["bias_ih_l0"] + p["bias_hh_l0"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        (h, c), hs = lax.scan(step, (jnp.zeros((1, 2)), jnp.zeros((1, 2))), xs)
        out = fg.retain_grad((hs, (h[None], c[None])), "lstm")
        return out[0] * 2

    outer = torch.nn.ModuleDict({"lstm": model})
    theirs = lambda xs: outer["lstm"](xs)[0] * 2
    port = lambda p, xs: ours({k.removeprefix("lstm."): v for k, v in p.items()}, xs)
    report = assert_matches_torch(theirs, port, normal(0, 4, 1, 2), params=outer, modules=True)
    kinds = [row.name for row in report.rows if row.kind == "intermediate"]
    assert kinds == ["lstm[0]", "lstm[1][0]", "lstm[1][1]"]


def test_nested_loops_and_loops_with_room_to_spare(torch):
    norms = []

    def theirs(x):
        norms.clear()
        for _ in range(2):
            for _ in range(3):
                x = capture(torch.sin(x) * 2, "inner")
        while x.norm() < 50:
            norms.append(x.norm().item())
            x = capture(x * 1.5, "outer")
        return x

    def ours(x, last=1.5):
        inner = lambda x, _: (fg.retain_grad(jnp.sin(x) * 2, "inner"), None)
        outer = lambda x, _: (lax.scan(inner, x, length=3)[0], None)
        x = lax.scan(outer, x, length=2)[0]
        grow = lambda x: fg.retain_grad(x * jnp.where(jnp.linalg.norm(x) > 20, last, 1.5), "outer")
        return fg.while_loop(lambda x: jnp.linalg.norm(x) < 50, grow, x, max_steps=20)

    report = assert_matches_torch(theirs, ours, normal(0, 3))
    assert report.row("inner").shape == (2, 3, 3)
    assert report.row("outer").shape == (20, 3)
    found = with_torch(theirs, functools.partial(ours, last=1.6), normal(0, 3))
    first = next(i for i, norm in enumerate(norms) if norm > 20)
    assert 0 < first < len(norms) - 1
    assert found.forward.name == f"outer[{first}]"


@pytest.mark.slow
def test_parameters_by_a_function_tied_frozen_and_by_nested_names(torch):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight
            self.scale = torch.nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, ids):
            return self.head(self.embed(ids) * self.scale).log_softmax(-1)

    port = lambda p, ids: jax.nn.log_softmax((p["in"][ids] * p["s"]["k"]) @ p["out"])
    ids, model = np.array([0, 3, 3]), Tied()
    build = lambda s: {"in": s["embed.weight"], "out": s["head.weight"].T, "s": {"k": s["scale"]}}
    rules = {"embed.weight": "in", "head.weight": ("out", lambda w: w.T), "scale": "s/k"}
    for names in (build, rules):
        report = assert_matches_torch(model, port, ids, params=model, names=names)
        assert report.row("embed.weight = head.weight").grad.ok
        assert report.row("scale").grad is None
        assert "scale requires no gradient in PyTorch; its gradient is not compared" in str(report)
    untied = lambda s: {**build(s), "out": jax.lax.stop_gradient(s["head.weight"].T)}
    report = with_torch(model, port, ids, params=model, names=untied)
    assert report.backward.name == "embed.weight = head.weight"


def test_parameters_as_a_dict_that_both_functions_take(torch):
    state = {"w": normal(0, 3, 2), "b": torch.zeros(2)}
    theirs = lambda p, x: x @ p["w"] + p["b"]
    ours = lambda p, x: x @ p["kernel"].T + p["b"]
    names = {"w": ("kernel", lambda w: w.T)}
    report = assert_matches_torch(theirs, ours, normal(1, 4, 3), params=state, names=names)
    assert [row.name for row in report.rows if row.kind == "parameter"] == ["w", "b"]
    assert report.row("w").grad.torch_shape == (3, 2)


def test_batch_statistics_that_change_in_the_run(torch):
    model = torch.nn.BatchNorm1d(3)

    def ours(p, x):
        mean, var = x.mean(0), x.var(0)
        new = 0.9 * p["running_mean"] + 0.1 * mean
        return (x - mean) / jnp.sqrt(var + 1e-5) * p["weight"] + p["bias"], fg.detach(new)

    theirs = lambda x: (model(x), model.running_mean.clone())
    assert_matches_torch(theirs, ours, normal(0, 8, 3), params=model, n=3)


# Further inputs.


@pytest.mark.parametrize(
    ("theirs", "ours", "style"),
    [
        (lambda t, x: x.abs(), jnp.abs, "kinks"),
        (lambda t, x: x.clamp(-1, 1), lambda x: jnp.clip(x, -1, 1), "kinks"),
        (lambda t, x: x.max(0).values, lambda x: jnp.max(x, 0), "ties"),
        (lambda t, x: x.norm(), jnp.linalg.norm, "zeros"),
        (lambda t, x: t.log(x.exp().sum()), jax.nn.logsumexp, "large"),
        (lambda t, x: t.sin(x), lambda x: jnp.where(jnp.abs(x) < 1e-4, 0, jnp.sin(x)), "tiny"),
    ],
)
def test_what_the_example_does_not_show_further_inputs_do(torch, theirs, ours, style):
    theirs = functools.partial(theirs, torch)
    example = normal(0, 4, 3)
    assert with_torch(theirs, ours, example).ok
    report = with_torch(theirs, ours, example, n=7, seed=5)
    failed = [case for case in report.cases if not case.report.ok]
    assert style in [case.style for case in failed]
    seed = next(case.seed for case in failed if case.style == style)
    assert f"seed {seed} ({style}) differs" in str(report)
    (again,) = with_torch(theirs, ours, example, n=1, seed=seed).cases
    assert str(again.report) == str(next(c for c in failed if c.seed == seed).report)


def test_further_inputs_stay_in_the_examples_range(torch):
    seen = []

    def theirs(p, i):
        seen.append((p.min().item(), p.max().item(), sorted(i.tolist())))
        return p.sqrt().sum() + i.sum()

    ours = lambda p, i: jnp.sum(jnp.sqrt(p)) + jnp.sum(i).astype("float32")
    with_torch(theirs, ours, np.float32([0.5, 0.25, 1]), np.array([4, 0, 7]), n=7)
    assert all(0 <= low <= high <= 1 and i == [0, 4, 7] for low, high, i in seen)


# Refusals, the report, the outside.


def test_random_numbers_in_the_torch_function_are_refused(torch):
    with pytest.raises(fg.UsageError, match=r"draws random numbers.*module.eval\(\)"):
        with_torch(torch.nn.Dropout(0.5), lambda x: x, np.ones(3, "float32"))
    assert with_torch(torch.nn.Dropout(0.5).eval(), lambda x: x, np.ones(3, "float32")).ok


def test_a_port_that_looks_at_its_values_is_compared_without_compilation(torch):
    theirs = lambda x: capture(x * 2, "y") if x.sum() > 0 else x
    ours = lambda x: fg.retain_grad(x * 2, "y") if jnp.sum(x) > 0 else x
    with pytest.raises(jax.errors.TracerBoolConversionError) as error:
        with_torch(theirs, ours, np.ones(2, "float32"))
    assert "jit=False" in error.value.__notes__[-1]
    report = with_torch(theirs, ours, np.ones(2, "float32"), jit=False)
    assert (report.ok, report.only_torch) == (True, ("y",))
    assert "its tags could not be read" in str(report)


def test_an_error_of_either_function_says_what_it_was_called_with_and_how_to_pass_parameters(torch):
    model, x = torch.nn.Linear(3, 2), normal(0, 4, 3)
    port = lambda p, x: x @ p["weight"] + p["bias"]
    state = {"weight": normal(1, 2, 3), "bias": normal(2, 2)}
    wants = "; params=module gives the module's parameters to the JAX function"
    for inputs, options, said in [
        ((x,), {}, "the JAX function with (float32[4,3])" + wants),
        ((state, x), {}, "the torch function with ({'bias': torch.float32[2], 'weight': torch."),
        (
            (x,),
            {"params": model},
            "the JAX function with ({'bias': float32[2], 'weight': float32[2,3]}, float32[4,3])",
        ),
    ]:
        with pytest.raises(TypeError) as error:
            with_torch(model, port, *inputs, **options)
        (note,) = (n for n in error.value.__notes__ if n.startswith("`with_torch` called "))
        assert said in note
        assert (wants in note) == (not options)


def test_outputs_of_unequal_shape_are_reported_with_what_led_there(torch):
    report = with_torch(
        lambda x: capture(x * 2, "y") @ x.mT,
        lambda x: fg.retain_grad(x * 3, "y").T @ x,
        normal(0, 2, 3),
    )
    assert report.forward.name == "y"
    reason = "torch has shape (2, 2), jax (3, 3)"
    assert report.row("output").value.reason == reason
    assert "gradients are not compared" in str(report)
    assert all(row.grad is None for row in report.rows)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda t: with_torch(1, jnp.sin, 1.0), fg.UsageError, "got int as `torch_fn`"),
        (lambda t: with_torch(t.sin, None, 1.0), fg.UsageError, "got NoneType as `jax_fn`"),
        (lambda t: with_torch(t.sin, jnp.sin, 1.0, n=-1), fg.UsageError, "got n=-1"),
        (lambda t: with_torch(t.sin, jnp.sin, 1.0, rtol="x"), fg.UsageError, "got rtol='x'"),
        (
            lambda t: with_torch(lambda x: (x, x), lambda x: x, 1.0),
            fg.TreeError,
            r"different structures(.|\n)*whole output: torch has nothing, jax has float32\[\]"
            r"(.|\n)*\[0\]: torch has float32\[\], jax has nothing",
        ),
        (
            lambda t: with_torch(t.sin, jnp.sin, np.ones(3, "float32"), gradient=np.ones(2)),
            fg.TreeError,
            r"does not fit the output(.|\n)*got float64\[2\], wanted float32\[3\]",
        ),
        (lambda t: with_torch(lambda x: "a", jnp.sin, 1.0), fg.UsageError, "that returns str"),
        (
            lambda t: with_torch(lambda x: None, lambda x: None, 1.0),
            fg.TreeError,
            "functions that return nothing",
        ),
        (
            lambda t: with_torch(t.sin, jnp.sin, 1.0, modules=True),
            fg.UsageError,
            "modules=True without a module",
        ),
        (
            lambda t: with_torch(t.sin, jnp.sin, 1.0, names={"a": "b"}),
            fg.UsageError,
            "`names` without `params`",
        ),
        (
            lambda t: with_torch(t.nn.Tanh(), jnp.tanh, 1.0, params={"w": 1.0}),
            fg.UsageError,
            "wants the torch.nn.Module itself",
        ),
        (
            lambda t: linear(t, names={"wieght": "w"}),
            fg.UsageError,
            "got 'wieght' in `names`, and no .* is called that: there is 'weight', 'bias'",
        ),
        (lambda t: linear(t, names={"weight": 3}), fg.UsageError, "got 3 for 'weight' in `names`"),
        (lambda t: linear(t, names={"*": "w"}), fg.UsageError, "the one name 'w' for all"),
        (
            lambda t: linear(t, names={"weight": "w", "bias": "w"}),
            fg.UsageError,
            "got 'w' for 'bias' in `names`, where something else stands",
        ),
        (lambda t: linear(t, modules="conv*"), fg.UsageError, "no submodule is called that"),
        (
            lambda t: with_torch(t.sin, jnp.sin, 1.0, intermediates={"y": "z"}),
            fg.UsageError,
            "got 'y' in `intermediates`, and no captured tensor",
        ),
        (
            lambda t: with_torch(lambda x: capture(x, ""), jnp.sin, 1.0),
            fg.UsageError,
            "`capture` got the name ''",
        ),
        (
            lambda t: with_torch(lambda x: capture(3, "y"), jnp.sin, 1.0),
            fg.UsageError,
            "`capture` got int as 'y'",
        ),
        (
            lambda t: with_torch(
                lambda x: capture(capture(x, "y")[None], "y"),
                lambda x: fg.retain_grad(x, "y")[None],
                1.0,
            ),
            fg.UsageError,
            r"one name for tensors of the shapes \(\), \(1,\)",
        ),
    ],
)
def test_misuse_is_explained(torch, call, error, words):
    with pytest.raises(error, match=words):
        call(torch)


def linear(torch, **options):
    model = torch.nn.Linear(2, 2)
    ours = lambda p, x: x @ p["weight"].T + p["bias"]
    return with_torch(model, ours, np.ones((1, 2), "float32"), params=model, **options)


def test_numpy_in_names_is_explained(torch):
    with pytest.raises(jax.errors.TracerArrayConversionError) as error:
        linear(torch, names=lambda state: {"weight": np.asarray(state["weight"])})
    assert any("`with_torch` traces `names`" in note for note in error.value.__notes__)


def test_a_parameter_changed_in_place_is_refused(torch):
    model = torch.nn.Linear(2, 2)

    def theirs(x):
        with torch.no_grad():
            model.weight.mul_(2)
        return model(x)

    with pytest.raises(fg.UsageError, match="changes a parameter in place"):
        with_torch(theirs, lambda p, x: x, np.ones((1, 2), "float32"), params=model)


def test_a_module_without_params_is_noted(torch):
    model = torch.nn.Linear(2, 2)
    w, b = (p.detach().numpy() for p in model.parameters())
    report = with_torch(model, lambda x: x @ w.T + b, np.ones((1, 2), "float32"))
    assert report.ok
    assert "are not compared; params=module gives the module's parameters to the JAX" in str(report)


def test_the_error_holds_the_report_and_is_an_assertion(torch):
    with pytest.raises(AssertionError, match="first divergence forward: output") as error:
        assert_matches_torch(torch.sin, jnp.cos, normal(0, 3))
    assert isinstance(error.value, fg.FuncgradError)
    assert isinstance(error.value, ParityError)
    assert error.value.report.forward.name == "output"


def test_json_says_what_the_report_says(torch):
    report = run(torch, "mlp", "sign flipped")
    data = json.loads(report.to_json())
    assert (data["ok"], data["forward"]) == (False, None)
    assert data["backward"] == {"name": "h1", "near": ["h2"]}
    assert [row["name"] for row in data["rows"]] == [row.name for row in report.rows]
    bad = with_torch(lambda x: x / 0, lambda x: x * np.float32(1), np.float32([1, 0]), n=1)
    assert json.loads(bad.to_json())["rows"][1]["value"]["torch"] == "inf"


def test_nan_agrees_with_nan_and_with_nothing_else(torch):
    x = np.float32([-1, 0, 4])
    assert_matches_torch(torch.sqrt, jnp.sqrt, x)
    report = with_torch(torch.sqrt, lambda x: jnp.sqrt(jnp.abs(x)), x)
    assert report.row("output").value.at == (0,)
    assert np.isnan(report.row("output").value.torch)


def test_outside_a_comparison_capture_is_the_identity(torch):
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    assert capture(y, "y") is y
    assert not y.retains_grad
    with_torch(lambda x: capture(x, "y"), lambda x: x, 1.0)
    assert capture(y, "y") is y


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs torch.*pip install 'funcgrad\[torch\]'"):
        with_torch(lambda x: x, lambda x: x, 1.0)


@pytest.mark.slow
def test_importing_compare_does_not_import_torch():
    code = "import funcgrad.compare, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_the_page_on_parity_runs_and_prints_what_it_says(torch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()
    blocks = re.findall(r"```(python|text)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in blocks].count("text") == 2
    names = {"__name__": "page"}
    for kind, block in blocks:
        if kind == "python":
            exec(block, names)
            continue
        printed, said = capsys.readouterr().out, block.removesuffix("...\n")
        assert words(printed).startswith(words(said))


def words(text):
    """A report without the sizes of differences, which are not the same on every processor."""
    return re.sub(r" +", " ", re.sub(r"\b\d+(\.\d+)?e-\d+\b|\b0\.0\d+\b", "#", text))


# What the call of a module leaves behind.


def normed(p, x):
    mean, var = x.mean(0), x.var(0)
    out = (x - mean) / jnp.sqrt(var + 1e-5) * p["weight"] + p["bias"]
    count = p["num_batches_tracked"] + 1
    running = {
        "running_mean": 0.9 * p["running_mean"] + 0.1 * mean,
        "running_var": 0.9 * p["running_var"] + 0.1 * var * len(x) / (len(x) - 1),
        "num_batches_tracked": count,
    }
    return out, running


@pytest.mark.slow
@pytest.mark.parametrize("given", ["module", "method", "function"])
def test_a_module_is_what_it_was_after_it_is_compared(torch, given):
    module, x = torch.nn.BatchNorm1d(3), torch.randn(8, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    buffers = [*module.buffers()]
    call = {"module": module, "method": module.forward, "function": lambda x: module(x)}[given]
    report = with_torch(call, lambda p, x: normed(p, x)[0], x, params=module, n=3)
    assert report.ok, report
    assert any("changes buffers that are not compared: running_mean" in n for n in report.notes)
    assert all(one is other for one, other in zip(buffers, module.buffers(), strict=True))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, "running_var", "num_batches_tracked"])
def test_buffers_after_the_call_are_compared(torch, fault):
    module, x = torch.nn.BatchNorm1d(3), torch.randn(8, 3)

    def port(p, x):
        out, running = normed(p, x)
        if fault:  # flax's variance, for one, is the biased one
            running[fault] = running[fault] * 0.99 if fault == "running_var" else 7
        return out, running

    report = with_torch(module, port, x, params=module, buffers=True)
    assert report.ok == (fault is None), report
    assert [row.name for row in report.rows if not row.ok] == (
        [f"output[1]['{fault}']"] if fault else []
    )


def test_buffers_that_the_port_does_not_return_are_asked_for(torch):
    module, x = torch.nn.BatchNorm1d(3), torch.randn(8, 3)
    with pytest.raises(fg.UsageError, match=r"buffers=True and a JAX function that returns"):
        with_torch(module, lambda p, x: normed(p, x)[0], x, params=module, buffers=True)
    with pytest.raises(fg.UsageError, match="buffers=True without a module"):
        with_torch(torch.tanh, jnp.tanh, x, buffers=True)


WITHOUT_DERIVATIVE = {
    "class weights": (
        lambda F, t: lambda x, w: F.cross_entropy(x, t, weight=w),
        lambda t: (
            lambda x, w: -jnp.sum(jax.nn.log_softmax(x)[jnp.arange(3), t] * w[t]) / jnp.sum(w[t])
        ),
    ),
    "of nll_loss": (
        lambda F, t: lambda x, w: F.nll_loss(x, t, weight=w, reduction="sum"),
        lambda t: lambda x, w: -jnp.sum(x[jnp.arange(3), t] * w[t]),
    ),
    "both weights": (
        lambda F, t: lambda x, w: F.nll_loss(x, t, weight=w) + F.nll_loss(2 * x, t, weight=w),
        lambda t: lambda x, w: -3 * jnp.sum(x[jnp.arange(3), t] * w[t]) / jnp.sum(w[t]),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
def test_an_input_that_pytorch_does_not_differentiate_by_is_passed_on(torch, name):
    theirs, ours = WITHOUT_DERIVATIVE[name]
    target, weight = np.array([0, 2, 1]), torch.tensor([1.0, 2.0, 0.5])
    functional = torch.nn.functional
    port = ours(jnp.asarray(target))
    report = with_torch(theirs(functional, torch.tensor(target)), port, torch.randn(3, 3), weight)
    assert report.ok, report
    assert any(note.startswith("w requires no gradient in PyTorch") for note in report.notes)
    wrong = with_torch(
        theirs(functional, torch.tensor(target)),
        lambda x, w: port(1.01 * x, w),
        torch.randn(3, 3),
        weight,
    )
    assert not wrong.ok


# A submodule that is used twice.


class _Twice:
    """Two uses of a module that captures under one name."""

    def __init__(self, torch):
        class Layer(torch.nn.Module):
            def forward(self, x):
                return capture(torch.tanh(x), "out")

        self.net = torch.nn.Sequential(Layer(), Layer())

    def __call__(self, x):
        return self.net(x).sum()


def scoped(x, wrong=1.0):
    with jax.named_scope("a"):
        x = fg.retain_grad(jnp.tanh(x), "out")
    with jax.named_scope("b"):
        return jnp.sum(fg.retain_grad(jnp.tanh(wrong * x), "out"))


@pytest.mark.slow
def test_each_of_several_captures_of_one_name_has_a_rule(torch):
    rules = {"out[0]": "a/out", "out[1]": "b/out"}
    report = with_torch(_Twice(torch), scoped, torch.ones(3), intermediates=rules)
    assert report.ok, report
    assert [row.jax_name for row in report.rows if row.kind == "intermediate"] == ["a/out", "b/out"]
    report = with_torch(
        _Twice(torch), lambda x: scoped(x, 1.01), torch.ones(3), intermediates=rules
    )
    assert next(row.name for row in report.rows if row.value and not row.value.ok) == "out[1]"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["*/out", "c/out", "out"])
def test_a_rule_to_a_name_that_jax_has_not_is_refused(torch, name):
    rules = {"out[0]": name, "out[1]": "b/out"}
    with pytest.raises(fg.UsageError, match=r"no value of that name: there is 'a/out', 'b/out'"):
        with_torch(_Twice(torch), scoped, torch.ones(3), intermediates=rules)
