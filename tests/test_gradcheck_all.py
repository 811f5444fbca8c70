"""`gradcheck` of all that `jax.numpy` and `jax.nn` differentiate: right, and wrong by 0.1%."""

import gradcheck_table as table
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import one_in

import funcgrad as fg

THERE = table.public_names()
GROUP = 3


def _groups():
    """Groups of functions, each a name, a dict from names to functions, and their arguments."""
    for x, names in table.SHARED:
        chosen = {name: table.lookup(name) for name in names.split() if name in THERE}
        yield "-".join(list(chosen)[:2]), chosen, dict.fromkeys(chosen, ("x",)), {"x": x}
    own = [(name, case) for name, case in table.OWN.items() if name in THERE]
    for start in range(0, len(own), GROUP):
        part = own[start : start + GROUP]
        places = {n: [f"{n} {i}" for i in range(len(args))] for n, (_, args) in part}
        given = {
            place: arg
            for name, (_, args) in part
            for place, arg in zip(places[name], args, strict=True)
        }
        yield "-".join(n for n, _ in part[:2]), {n: fun for n, (fun, _) in part}, places, given


GROUPS = list(_groups())
LOW = ["bfloat16", "float16", "float32"]
IDS = [group[0] for group in GROUPS]


def wrong_by(factor, fun):
    """`fun` with a derivative that is off by a factor."""
    wrong = jax.custom_jvp(fun)

    @wrong.defjvp
    def _(primals, tangents):
        out, dots = jax.jvp(fun, primals, tangents)
        scale = lambda d: d if d.dtype == jax.dtypes.float0 else d * np.asarray(factor, d.dtype)
        return out, jax.tree.map(scale, dots)

    return wrong


def floats(tree):
    """The leaves that have derivatives, as arrays."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def test_every_public_name_is_checked_or_left_out_with_a_reason():
    listed = [name for _, names in table.SHARED for name in names.split()]
    listed += [*table.OWN, *table.LEFT_OUT]
    assert not {name for name in listed if listed.count(name) > 1}, "listed twice"
    missing = sorted(THERE - set(listed))
    assert not missing, f"JAX {jax.__version__} has these too; add them to gradcheck_table.py"


@pytest.mark.parametrize(("_", "funs", "places", "args"), one_in(3, GROUPS), ids=IDS)
def test_float64_passes_and_is_wrong_where_the_rule_is(_, funs, places, args):
    def both(args):
        given = {name: [args[place] for place in places[name]] for name in funs}
        right = {name: floats(fun(*given[name])) for name, fun in funs.items()}
        wrong = {
            name: wrong_by(1.001, lambda *a, f=fun: floats(f(*a)))(*given[name])
            for name, fun in funs.items()
        }
        return {"right": right, "wrong": wrong}

    flat = set(funs) <= table.FLAT
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        if flat:
            assert fg.gradcheck(both, (args,), batched=False)
            return
        with pytest.raises(fg.GradcheckError) as caught:
            fg.gradcheck(both, (args,), batched=False)
    paths = {mismatch.output for mismatch in caught.value.mismatches}
    assert not [path for path in paths if "'wrong'" not in path], caught.value
    for name in set(funs) - table.FLAT:
        assert any(f"result['wrong']['{name}']" in path for path in paths), name


def check_low(group, dtype, **options):
    """`gradcheck` of a group in a dtype of less than 64 bits."""
    _, funs, places, args = group

    def right(args):
        return {
            name: floats(fun(*(args[place] for place in places[name])))
            for name, fun in funs.items()
        }

    # JAX's decompositions and Fourier transforms take no half precision, nor do complex numbers.
    exact = ("linalg.", "fft.", "polyfit", "roots", "interp")
    full = {place for name in funs if name.startswith(exact) for place in places[name]}
    low = {
        place: x.astype(
            "complex64" if np.iscomplexobj(x) else "float32" if place in full else dtype
        )
        for place, x in args.items()
    }
    return fg.gradcheck(right, (low,), batched=False, **options)


SMOOTH = GROUPS[: len(table.SHARED)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "group"), list(enumerate(SMOOTH)), ids=IDS[: len(SMOOTH)])
def test_low_precision_says_nothing_false(number, group):
    """In one dtype each; `python tests/gradcheck_sweep.py` goes through all."""
    assert check_low(group, LOW[number % len(LOW)], modes="rev")
