"""The page of mistakes: each raises the error it lists, which names the fix, and the fix runs."""

import builtins
import functools
import linecache
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from page import ROOT, code, settings, tables
from tiers import slow_but

import funcgrad as fg
from funcgrad._mistakes import _ATTRIBUTES, _NAMES, explained, fix_for

PAGE = ROOT / "docs" / "mistakes.md"
(SETTING,) = settings(PAGE)
TABLES = tables(PAGE)
SILENT = TABLES.pop("Mistakes that no error can tell")
LOUD = [row for rows in TABLES.values() for row in rows]
OURS = [row for heading, rows in TABLES.items() for row in rows if heading != "Errors of JAX alone"]


def execute(text, names):
    """Runs code as from a file: `autograph` reads the source of functions."""
    file = f"<mistakes: {text}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), names)
    return names


@functools.cache
def setting():
    return execute(SETTING, {})


def run(line, request):
    if "torch" in line:
        request.getfixturevalue("torch")
    execute(line.replace("import torch; ", "import torch\n"), dict(setting()))


def kind(name):
    """The class of that name: funcgrad's, JAX's or Python's."""
    homes = (fg, jax.errors, builtins)
    return next(getattr(home, name) for home in homes if hasattr(home, name))


@pytest.fixture(autouse=True)
def as_a_reader():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize(
    ("mistake", "says", "fix"),
    slow_but(lambda *row: [*row] in LOUD[::3], map(tuple, LOUD)),
    ids=[row[0] for row in LOUD],
)
def test_the_error_of_a_mistake_names_the_fix(mistake, says, fix, request):
    error, _, words = says.partition(": ")
    with pytest.raises(kind(error)) as caught:
        run(code(mistake), request)
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert type(caught.value).__name__ == error
    assert [part for part in words.split(" … ") if part not in said] == []
    run(code(fix), request)


@pytest.mark.parametrize(("mistake", "happens", "fix"), SILENT, ids=[row[0] for row in SILENT])
def test_a_mistake_that_no_error_can_tell_raises_none(mistake, happens, fix, request):
    run(code(mistake), request)
    run(code(fix), request)


# What PyTorch gives for a call whose namesake in JAX has another value, of `x` and `batch`.
THEIRS = {
    "batch.std(0)": lambda torch, x, batch: batch.std(0),
    "jax.nn.gelu(x)": lambda torch, x, batch: torch.nn.functional.gelu(x),
    "jnp.median(x)": lambda torch, x, batch: torch.median(x),
    'jnp.quantile(x, 0.5, method="nearest")': lambda torch, x, batch: torch.quantile(
        x, 0.5, interpolation="nearest"
    ),
    'jax.image.resize(x, (3,), "linear")': lambda torch, x, batch: shrunk(torch, x, "linear"),
    'jax.image.resize(x, (3,), "nearest")': lambda torch, x, batch: shrunk(torch, x, "nearest"),
    "jnp.linalg.eigvalsh(jnp.array([[1.0, 2.0], [3.0, 4.0]]))": lambda torch, x, batch: (
        torch.linalg.eigvalsh(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    ),
}


def shrunk(torch, x, mode):
    return torch.nn.functional.interpolate(x[None, None], size=3, mode=mode)[0, 0]


@pytest.mark.parametrize("call", THEIRS)
def test_what_to_write_instead_has_the_value_of_pytorch(torch, call):
    fix = next(fix for mistake, _, fix in SILENT if code(mistake) == call)
    numbers = {"x": [1.0, 2.0, 4.0, 8.0], "batch": [[1.0, 2.0], [3.0, 5.0]]}
    ours = {**setting(), **{name: jnp.array(value) for name, value in numbers.items()}}
    given = {name: torch.tensor(value) for name, value in numbers.items()}
    theirs = THEIRS[call](torch, **given).numpy()
    np.testing.assert_allclose(eval(code(fix), ours), theirs, rtol=1e-5)
    assert np.max(np.abs(eval(call, ours) - theirs)) > 1e-4


def test_the_cubic_of_jax_is_that_of_pytorch_with_antialias(torch):
    x = [1.0, 2.0, 4.0, 8.0]
    resized = {
        antialias: torch.nn.functional.interpolate(
            torch.tensor(x).view(1, 1, 1, 4), size=(1, 8), mode="bicubic", antialias=antialias
        )[0, 0, 0].numpy()
        for antialias in (True, False)
    }
    ours = jax.image.resize(jnp.array(x), (8,), "cubic")
    np.testing.assert_allclose(ours, resized[True], rtol=1e-5)
    assert np.max(np.abs(ours - resized[False])) > 1e-2


def test_there_are_the_mistakes_that_people_make():
    assert len(OURS) >= 50


# The notes.

X = jnp.arange(4.0)


def wrong(x):
    return jnp.sum(x.detach())


INSIDE = {
    "grad": lambda: fg.grad(wrong)(X),
    "value_and_grad": lambda: fg.value_and_grad(wrong)(X),
    "vjp": lambda: fg.vjp(wrong, X),
    "jit": lambda: jax.jit(fg.grad(wrong))(X),
    "vmap": lambda: jax.vmap(fg.grad(wrong))(X),
    "retain": lambda: fg.grad(wrong, retain=...)(X),
    "grad of grad": lambda: fg.grad(lambda x: jnp.sum(fg.grad(wrong)(x)))(X),
    "no_grad": lambda: fg.no_grad(wrong)(X),
    "register_hook": lambda: fg.register_hook(X, lambda g: g.detach()),
    "while_loop": lambda: fg.while_loop(lambda x: x < 9, wrong, 1.0, max_steps=9),
    "while_loop's condition": lambda: fg.while_loop(wrong, lambda x: 2 * x, 1.0, max_steps=9),
    "fori_loop": lambda: fg.fori_loop(0, 3, lambda i, x: wrong(x), 1.0),
    "autograph": lambda: fg.autograph(wrong)(X),
    "microbatch": lambda: fg.microbatch(wrong, 2, batch_argnums=0)(X),
    "detect_anomaly": lambda: fg.detect_anomaly(wrong)(X),
}


@pytest.mark.parametrize("call", INSIDE.values(), ids=list(INSIDE))
def test_the_note_is_there_once_whatever_calls_the_function(call):
    with pytest.raises(AttributeError, match=r"has no attribute '?detach") as caught:
        call()
    notes = [note for note in caught.value.__notes__ if note.startswith("funcgrad: ")]
    assert notes == ["funcgrad: write `funcgrad.detach(x)`"]


@pytest.mark.parametrize("name", ["while_loop", "fori_loop", "microbatch", "no_grad", "grad"])
def test_a_value_that_leaked_before_is_explained_wherever_it_is_refused(name):
    leaked = []
    jax.jit(lambda x: (leaked.append(jnp.sum(x)), x)[1])(X)
    uses = lambda x: jnp.sum(x) * leaked[0]
    call = {
        "while_loop": lambda: fg.while_loop(lambda x: x < 9, uses, 1.0, max_steps=9),
        "fori_loop": lambda: fg.fori_loop(0, 3, lambda i, x: uses(x), 1.0),
        "microbatch": lambda: fg.microbatch(uses, 2, batch_argnums=0)(X),
        "no_grad": lambda: fg.no_grad(uses)(X),
        "grad": lambda: fg.grad(uses)(X),
    }[name]
    with pytest.raises(jax.errors.UnexpectedTracerError) as caught:
        call()
    assert any("return it instead" in note for note in caught.value.__notes__)


SHAPES = {
    "added": lambda w, x, y: jnp.mean(x @ w - y),
    "multiplied": lambda w, x, y: jnp.mean(y @ (x @ w)),
    "reshaped": lambda w, x, y: jnp.mean((x @ w).reshape(6, 1)),
    "stacked": lambda w, x, y: jnp.mean(jnp.stack([x @ w, y])),
    "mapped": lambda w, x, y: jnp.mean(jax.vmap(lambda x, y: x @ w * y)(x, y)),
    "summed": lambda w, x, y: jnp.einsum("ij,j,i->", x, w, y),
}


@pytest.mark.parametrize("loss", SHAPES.values(), ids=list(SHAPES))
def test_an_error_about_shapes_says_that_the_function_sees_a_part_of_the_batch(loss):
    w, x, y = jnp.ones(2), jnp.ones((6, 2)), jnp.ones(6)
    with pytest.raises((TypeError, ValueError)) as caught:
        fg.microbatch(fg.grad(loss), 2)(w, x, y)
    (note,) = (note for note in caught.value.__notes__ if "microbatch" in note)
    assert "3 of the 6 rows of batch_argnums=(1,), and every other argument whole" in note


@pytest.mark.parametrize("fun", [lambda p, x: p["w"], lambda p, x: p + "text"])
def test_another_error_says_nothing_of_parts(fun):
    with pytest.raises((KeyError, TypeError)) as caught:
        fg.microbatch(fun, 2)({}, jnp.ones(4))
    assert not any("microbatch" in note for note in getattr(caught.value, "__notes__", ()))


def test_the_error_is_the_one_that_was_raised_and_points_at_the_users_line():
    error = TypeError("unexpected PRNG key type")

    def raises(x):
        raise error

    with pytest.raises(TypeError) as caught:
        fg.grad(raises)(X)
    assert caught.value is error
    assert caught.traceback[-1].name == "raises"


def test_every_function_of_jax_that_a_fix_names_is_there():
    fixes = " ".join([*_ATTRIBUTES.values(), *_NAMES.values()])
    named = set(re.findall(r"jax(?:\.\w+)+", fixes))
    assert len(named) > 20
    for path in named:
        functools.reduce(getattr, path.split(".")[1:], jax)


class Config:
    """Somebody's own class, without the attribute that a tensor has."""


@pytest.mark.parametrize(
    "error",
    [
        KeyError("w"),
        TypeError("unsupported operand type(s) for +: 'int' and 'str'"),
        TypeError("f() got an unexpected keyword argument 'training'"),
        AttributeError("'Config' object has no attribute 'data'"),
        AttributeError("'ArrayImpl' object has no attribute 'misspelt'"),
        AttributeError("'ArrayImpl' object has no attribute '__array_ufunc__'"),
        AttributeError("module 'jax' has no attribute 'grad_'"),
        RuntimeError("out of memory"),
    ],
    ids=str,
)
def test_an_error_that_no_habit_explains_gets_no_note(error):
    assert fix_for([type(error).__name__], str(error)) is None
    with pytest.raises(type(error)) as caught, explained:
        raise error
    assert not hasattr(caught.value, "__notes__")


def test_an_attribute_of_somebody_elses_object_gets_no_note():
    with pytest.raises(AttributeError) as caught:
        fg.grad(lambda x: jnp.sum(x * Config().data))(X)
    notes = getattr(caught.value, "__notes__", ())
    assert not [note for note in notes if note.startswith("funcgrad: ")]


@pytest.mark.kernel
def test_comparing_says_the_fix_where_a_port_fails_outside_of_any_function(tmp_path):
    pytest.importorskip("nbclient", reason="pip install 'funcgrad[compare]'")
    from funcgrad.compare import compare
    from funcgrad.errors import CompareError

    port = tmp_path / "port.py"
    port.write_text("# %%\nimport jax.numpy as jnp\njnp.sum(jnp.ones(3)).backward()\n")
    recording = ROOT / "notebooks" / "original_outputs.ipynb"
    with pytest.raises(CompareError, match=r"'backward'; .* write `funcgrad\.grad\(fun\)\(x\)`"):
        compare(recording, port)
