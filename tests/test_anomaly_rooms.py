"""Where `detect_anomaly` passes a NaN over: what packages, branches and loops drop themselves."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from tiers import slow_but

import funcgrad as fg
from funcgrad._jax import frames

X = jnp.array([1.0, -1.0, 2.0])
MODES = ["compiled", "interpreted"]
BOTH = pytest.mark.parametrize("mode", slow_but("interpreted".__eq__, MODES))


def choose(no, yes=lambda x: x * 0, by=lambda x: x > 0):
    return lambda x: lax.cond(by(x), no, yes, x)


LOG = choose(jnp.log)
SWITCH = lambda x: lax.switch(jnp.where(x > 0, 0, 1), [jnp.log, jnp.sin], x)
PASSED = {
    "a branch": jax.vmap(LOG),
    "a branch of a jitted function": jax.vmap(jax.jit(LOG)),
    "a gradient of examples": jax.grad(lambda x: jnp.sum(jax.vmap(LOG)(x))),
    "examples of a gradient": jax.vmap(jax.grad(LOG)),
    "a switch": jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(SWITCH)(x)))),
    "an infinite derivative": lambda x: jax.grad(lambda x: jnp.sum(jax.vmap(choose(jnp.sqrt))(x)))(
        jnp.maximum(x, 0.0)
    ),
    "a scan in a branch": jax.vmap(
        choose(lambda x: lax.scan(lambda c, _: (jnp.log(x) + c, None), x, None, length=3)[0])
    ),
    "a branch in a scan": lambda x: lax.scan(
        lambda x, _: (jax.vmap(choose(lambda x: jnp.log(x) * 0 + 1))(x), None), x, None, length=3
    )[0],
    "a jit in a branch": jax.vmap(choose(jax.jit(lambda x: jnp.log(x) * 2))),
    "a branch in a branch": jax.vmap(choose(choose(lambda x: jnp.log(x - 1), by=lambda x: x > 1))),
    "a step of JAX's loop": jax.vmap(
        lambda x: lax.while_loop(lambda s: (s < 5) & (s > 0), lambda s: s + 1 + 0 * jnp.log(s), x)
    ),
    "a step of our loop": jax.vmap(
        lambda x: fg.while_loop(
            lambda s: (s < 5) & (s > 0), lambda s: s + 1 + 0 * jnp.log(s), x, max_steps=9
        )
    ),
}
FOUND = {
    "a branch that is taken": jax.vmap(choose(jnp.log, by=lambda x: x < 0)),
    "what was there before": jax.vmap(
        lambda x: (lambda y: lax.cond(x > 0, lambda y: y, lambda y: 0 * y, y))(jnp.log(x))
    ),
    "a gradient in a branch that is taken": jax.grad(
        lambda x: jnp.sum(jax.vmap(choose(lambda x: jnp.sqrt(x + 1), by=lambda x: x < 0))(x) * 0)
    ),
    "a `where` in a `cond`": lambda x: lax.cond(
        x[0] > 0, lambda x: jnp.where(x > 0, jnp.log(x), 0.0), jnp.sin, x
    ),
    "a step of an example that goes on": jax.vmap(
        lambda x: lax.while_loop(lambda s: s < 5, lambda s: s + 1 + 0 * jnp.log(s), x)
    ),
    "a step of our loop that goes on": jax.vmap(
        lambda x: fg.while_loop(
            lambda s: s < 5, lambda s: s + 1 + 0 * jnp.log(s), x, max_steps=9, on_max_steps="ignore"
        )
    ),
}


@BOTH
@pytest.mark.parametrize("name", slow_but(lambda name: name in ("a branch", "a switch"), PASSED))
def test_what_is_computed_for_other_examples_too_is_passed_over(name, mode):
    got = fg.detect_anomaly(PASSED[name], mode=mode)(X)
    assert jnp.all(jnp.isfinite(got))


@BOTH
@pytest.mark.parametrize("name", slow_but(lambda name: "before" in name, FOUND))
def test_what_examples_keep_is_found(name, mode):
    with pytest.raises(fg.AnomalyError) as caught:
        fg.detect_anomaly(FOUND[name], mode=mode)(X)
    assert caught.value.anomaly.computed in ("log(-1.0)", "0.0 * inf")


# Packages.

PACKAGE = """
import jax, jax.numpy as jnp
def masking(x):
    return jnp.where(x > 0, jnp.log(x), 0.0)
def not_masking(x):
    return jnp.log(x) * 2
def half(x):
    return jnp.log(x)
def other_half(x, y):
    return jnp.where(x > 0, y, 0.0)
def calling(fun, x):
    return jnp.where(x > 0, fun(x), 0.0)
jitted = jax.jit(masking)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A module that stands, for funcgrad, in an installed package."""
    path = tmp_path_factory.mktemp("installed") / "package.py"
    path.write_text(PACKAGE)
    spec = importlib.util.spec_from_file_location("package", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "_INSTALLED", (f"{path.parent}/", *frames._INSTALLED))
        yield module


@BOTH
def test_what_a_package_masks_itself_is_passed_over(package, mode):
    cases = (
        lambda x: package.masking(x),
        lambda x: package.jitted(x),
        lambda x: jnp.sin(package.masking(x * 2)),
    )
    for fun in cases:
        assert jnp.all(jnp.isfinite(fg.detect_anomaly(fun, mode=mode)(X)))


@BOTH
def test_what_a_package_lets_out_or_is_given_is_found(package, mode):
    cases = {
        "package.not_masking(x)": lambda x: package.not_masking(x),
        "package.half(x)": lambda x: package.other_half(x, package.half(x)),
        "jnp.log(x)": lambda x: package.calling(lambda x: jnp.log(x), x),
        "jnp.log(x - 3)": lambda x: package.masking(jnp.log(x - 3)),
    }
    for source, fun in cases.items():
        with pytest.raises(fg.AnomalyError) as caught:
            fg.detect_anomaly(fun, mode=mode)(X)
        assert caught.value.anomaly.source == source


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("name", ["lamb", "lars", "radam", "lbfgs", "novograd", "fromage", "adam"])
def test_healthy_training_with_optax_raises_no_alarm(name, mode):
    optax = pytest.importorskip("optax", reason="optax is not installed: pip install optax")
    make = getattr(optax, name)
    optimizer = make() if name == "lbfgs" else make(1e-2)
    inputs = jnp.arange(12.0).reshape(4, 3) / 12
    params = {"w": jnp.ones((3, 2)) / 4, "b": jnp.zeros(2), "head": jnp.zeros(2)}

    def loss(p):
        return jnp.mean((jnp.tanh(inputs @ p["w"] + p["b"]) @ p["head"] - 1.0) ** 2)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        more = {"value": value, "grad": grads, "value_fn": loss} if name == "lbfgs" else {}
        updates, state = optimizer.update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
        for _ in range(3):
            params, state = fg.detect_anomaly(step, mode=mode)(params, state)
    assert jnp.isfinite(loss(params))
