"""Eight host devices, strict dtype promotion, the quick tier, and fixtures that files share."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import jax
import pytest
import tiers

jax.config.update("jax_numpy_dtype_promotion", "strict")


# A page of wrong calls, for type checkers: `--doctest-modules` would run it.
collect_ignore = ["types_page.py"]
TIERS = ("slow", "one_line", "kernel", "site", "torch", "hosts", "nightly")
NIGHTLY = os.environ.get("FUNCGRAD_NIGHTLY") == "1"
HALF = os.environ.get("FUNCGRAD_HALF")


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks that `-m` asks for
def pytest_collection_modifyitems(config, items):
    for item in items:
        if "torch" in getattr(item, "fixturenames", ()):
            item.add_marker("torch")
        if not any(map(item.get_closest_marker, TIERS)):
            item.add_marker("quick")
    left = {item for item in items if item.get_closest_marker("nightly") and not NIGHTLY}
    if HALF:
        left |= tiers.other_half(HALF, [item for item in items if item not in left])
    if left:
        config.hook.pytest_deselected(items=[*left])
        items[:] = [item for item in items if item not in left]


@pytest.fixture
def quick_tests(request):
    """The tests of the quick tier; they are known where all tests have been collected."""
    config = request.config
    if sorted(config.args) != sorted(config.getini("testpaths")) or config.option.keyword:
        pytest.skip("only some of the tests were asked for")
    return [item for item in request.session.items if item.get_closest_marker("quick")]


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip(
        "torch", reason="PyTorch is not installed: pip install 'funcgrad[torch]'"
    )


@pytest.fixture
def checking_leaks():
    with jax.checking_leaks():
        yield


@pytest.fixture
def current_forms():
    """For tests of the forms of primitives that JAX makes while no flag is set."""
    flags = ("jax_remat3", "jax_custom_vjp3", "jax_custom_jvp3")
    if any(getattr(jax.config, flag, False) for flag in flags):
        pytest.skip("JAX makes the announced forms of primitives here")
