"""Eight host devices, strict dtype promotion, and fixtures that several files use."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip(
        "torch", reason="PyTorch is not installed: pip install 'funcgrad[torch]'"
    )


@pytest.fixture
def checking_leaks():
    with jax.checking_leaks():
        yield
