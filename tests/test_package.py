"""What holds for the package as a whole: light imports, floors, one door to JAX's internals."""

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import funcgrad

PACKAGE = Path(funcgrad.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """The absolute names of the modules that a file imports, wherever in the file."""
    package = ["funcgrad", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*start, alias.name]) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_module_opens_the_door_to_jax_internals(path):
    names = list(imported(path))
    assert not [name for name in names if name.startswith("jax._src")]
    if path.name != "_compat.py":
        assert not [name for name in names if name.startswith(("jax.extend", "jax.interpreters"))]


def loaded(code):
    """The modules that `code` loads, in a Python of its own."""
    code = f"import sys; {code}; print(*sys.modules, sep=chr(10))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_funcgrad_imports_jax_and_nothing_heavy():
    heavy = "torch malt IPython nbclient nbformat rich click lark matplotlib chex optax pytest"
    modules = loaded("import funcgrad")
    assert not modules & set(heavy.split())
    more = {name.partition(".")[0] for name in modules - loaded("import jax")}
    assert more == {"funcgrad", "jax"}
    later = {*funcgrad._LATER.values(), ".compare", ".bench", ".launch", ".cli"}
    assert not modules & {f"funcgrad{module}" for module in later}
    # Each takes about a third of a millisecond, and jax.extend twenty.
    assert sum(name.partition(".")[0] == "funcgrad" for name in modules) <= 40


def test_what_is_imported_later_is_there():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    checking = next(node for node in tree.body if isinstance(node, ast.If))
    names = [alias.name for node in checking.body for alias in node.names]
    assert names == [*funcgrad._PACKAGES, *funcgrad._LATER]
    assert all(getattr(funcgrad, name).__name__ for name in names)
    assert set(names) <= set(dir(funcgrad))
    with pytest.raises(AttributeError, match="module 'funcgrad' has no attribute 'backward'"):
        _ = funcgrad.backward
    with pytest.raises(AttributeError, match=r"no attribute 'vmap': it is jax\.vmap"):
        _ = funcgrad.vmap


@pytest.mark.parametrize("name", funcgrad._PACKAGES)
def test_a_package_is_there_without_an_import_of_its_own(name):
    assert f"funcgrad.{name}" in loaded(f"import funcgrad; funcgrad.{name}.__doc__")


PUBLIC = [
    pytest.param(value, id=f"{module.__name__}.{name}")
    for module in (funcgrad, funcgrad.compare, funcgrad.conventions)
    for name, value in ((name, getattr(module, name)) for name in dir(module))
    if not name.startswith("_") and callable(value)
]


@pytest.mark.parametrize("public", PUBLIC)
def test_every_public_function_is_used_in_its_example(public):
    if isinstance(public, type):
        assert not public.__doc__.startswith(f"{public.__name__}(")  # as a bare tuple's does
        return
    examples = "".join(one.source for one in doctest.DocTestParser().get_examples(public.__doc__))
    used = [n for n in ast.walk(ast.parse(examples)) if isinstance(n, ast.Name | ast.Attribute)]
    assert public.__name__ in {ast.unparse(node).rpartition(".")[2] for node in used}


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
