"""The error classes, and how two pytrees differ."""

import collections
import subprocess
import sys

import jax.numpy as jnp
import pytest

import funcgrad as fg
from funcgrad._describe import describe, differences

X = jnp.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (fg.GradientError, RuntimeError),
        (fg.TagError, ValueError),
        (fg.TreeError, ValueError),
        (fg.UsageError, TypeError),
    ],
)
def test_every_error_is_ours_and_the_builtin_that_fits(error, builtin):
    assert issubclass(error, fg.FuncgradError)
    assert issubclass(error, builtin)


def test_errors_import_nothing_heavy():
    code = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('errors', {fg.errors.__file__!r})\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("leaf", "shown"),
    [
        (X, "float32[2]"),
        (jnp.int8(1), "int8[]"),
        (jnp.zeros((2, 0), bool), "bool[2,0]"),
        (1.0, "float"),
        ("text", "str"),
        (None, "NoneType"),
    ],
)
def test_describe(leaf, shown):
    assert describe(leaf) == shown


def test_equal_trees_do_not_differ_whatever_their_values():
    assert differences({"a": X, "b": (1.0,)}, {"a": 2 * X, "b": (5.0,)}) == []


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("got", "want", "lines"),
    [
        (X, X[:1], ["the whole value: got float32[2], wanted float32[1]"]),
        ({"a": X}, {}, ["['a']: got float32[2], wanted nothing"]),
        ({}, {"a": X}, ["['a']: got nothing, wanted float32[2]"]),
        ([X, X], [X, 1.0], ["[1]: got float32[2], wanted float"]),
        (Pair(X, X), Pair(X, X[0]), [".b: got float32[2], wanted float32[]"]),
        ([{"k": (X,)}], [{"k": (X[0],)}], ["[0]['k'][0]: got float32[2], wanted float32[]"]),
    ],
)
def test_differences_are_shown_path_by_path(got, want, lines):
    assert differences(got, want) == lines


def test_containers_that_differ_are_shown():
    (line,) = differences([X], (X,))
    assert line.startswith("the containers: got PyTreeDef([*]), wanted PyTreeDef((*,))")
