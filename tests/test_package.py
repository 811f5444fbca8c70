"""What holds for the package as a whole: light imports, floors, one door to JAX's internals."""

import ast
import doctest
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import CodeType, FunctionType

import pytest

import funcgrad

TESTS = Path(__file__).parent
PACKAGE = Path(funcgrad.__file__).parent
ROOT = Path(__file__).parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(text, package):
    """The absolute names that a file of a package imports, wherever in the file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*start, alias.name]) for alias in node.names)


# What only `funcgrad/_jax/` may touch: the parts of programs and tracers, and JAX's own modules.
PARTS = {
    *("eqns", "invars", "outvars", "constvars", "in_avals", "out_avals"),
    *("aval", "primitive", "source_info", "name_stack", "pval", "to_concrete_value"),
}
INSIDE = ("jax.api_util", "jax.core", "jax.extend", "jax.interpreters")


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def inner_parts(text, package):
    """What of JAX's inside a file of a package names."""
    yield from (name for name in imported(text, package) if within(name, INSIDE))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and (node.attr in PARTS or ast.unparse(node) in INSIDE):
            yield ast.unparse(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_room_reads_equations_jaxprs_and_tracers(path):
    file, text = path.relative_to(PACKAGE), path.read_text()
    package = ["funcgrad", *file.parts[:-1]]
    assert not [name for name in imported(text, package) if within(name, ["jax._src"])]
    if file.parts[0] != "_jax":
        assert not list(inner_parts(text, package))


@pytest.mark.parametrize(
    "line",
    ["jaxpr.eqns", "v.pval.get_known()", "jax.core.Tracer", "import jax.extend as jex",
     "from jax.interpreters import mlir", "from jax import api_util", "import jax.core"],
)  # fmt: skip
def test_what_reads_jax_inside_is_seen(line):
    assert list(inner_parts(line, ["funcgrad"]))


def test_what_reads_something_else_is_not():
    assert not list(inner_parts("import jax.lax\njax.lax.scan\nmodule.equations", ["funcgrad"]))


# Import contracts.


CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]


def planted(contract):
    """A module, and the import in it that breaks this contract and no other."""
    if contract["type"] == "layers":
        above, lowest = (layer.split(" ")[0] for layer in contract["layers"][-2:])
        return f"funcgrad.{lowest}", f"funcgrad.{above}"
    return contract["modules"][:2]


@pytest.fixture
def copy(tmp_path):
    """A folder with funcgrad's sources and the contracts that they keep."""
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    only = shutil.ignore_patterns("__pycache__", "*.ipynb")
    shutil.copytree(PACKAGE, tmp_path / "funcgrad", ignore=only)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken(folder):
    """The contracts that the sources in a folder break."""
    code = "from importlinter import cli; raise SystemExit(cli.lint_imports(no_logo=True))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = re.findall(r"^(.*) (?:KEPT|BROKEN)$", done.stdout, re.MULTILINE)
    assert found == [contract["name"] for contract in CONTRACTS], done.stdout + done.stderr
    assert bool(done.returncode) == (" BROKEN" in done.stdout)
    return re.findall(r"^(.*) BROKEN$", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_sources_keep_the_contracts(copy):
    assert broken(copy) == []


@pytest.mark.slow
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract["name"])
def test_an_import_against_a_contract_breaks_it(contract, copy):
    module, of = planted(contract)
    path = copy.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    path.write_text(f"{path.read_text()}\n\nimport {of}\n")
    assert broken(copy) == [contract["name"]]


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
    assert sum(name.partition(".")[0] == "funcgrad" for name in modules) <= 50


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


@pytest.mark.slow
@pytest.mark.parametrize("name", funcgrad._PACKAGES)
def test_a_package_is_there_without_an_import_of_its_own(name):
    assert f"funcgrad.{name}" in loaded(f"import funcgrad; funcgrad.{name}.__doc__")


PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (funcgrad, funcgrad.compare, funcgrad.conventions)
    for name in dir(module)
    if not name.startswith("_") and callable(getattr(module, name))
}


@pytest.mark.parametrize("public", PUBLIC.values(), ids=PUBLIC)
def test_every_public_function_is_used_in_its_example(public):
    if isinstance(public, type):
        assert not public.__doc__.startswith(f"{public.__name__}(")  # as a bare tuple's does
        return
    examples = "".join(one.source for one in doctest.DocTestParser().get_examples(public.__doc__))
    used = [n for n in ast.walk(ast.parse(examples)) if isinstance(n, ast.Name | ast.Attribute)]
    assert public.__name__ in {ast.unparse(node).rpartition(".")[2] for node in used}


def test_the_quick_tier_has_the_example_of_every_public_function(quick_tests):
    examples = {test.name for test in quick_tests if isinstance(test, pytest.DoctestItem)}
    functions = [one for one in PUBLIC.values() if isinstance(one, FunctionType)]
    assert examples >= {f"{one.__module__}.{one.__qualname__}" for one in functions}


def names_in(function, seen):
    """The names in a function of the tests, and in those that it calls."""
    if function in seen or TESTS not in Path(function.__code__.co_filename).parents:
        return
    seen.add(function)
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for name in code.co_names:
            yield name
            called = function.__globals__.get(name)
            if isinstance(called, FunctionType):
                yield from names_in(called, seen)


def test_the_quick_tier_has_a_test_that_names_every_public_function(quick_tests):
    seen, named = set(), set()
    for test in quick_tests:
        if isinstance(test, pytest.Function):
            named |= {*names_in(test.function, seen)}
    public = (name for name in dir(funcgrad) if isinstance(getattr(funcgrad, name), FunctionType))
    assert {name for name in public if not name.startswith("_")} <= named


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.slow
def test_the_wheel_is_small_and_holds_no_results(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {"funcgrad/__init__.py", "funcgrad/py.typed", "pytest_funcgrad/__init__.py"} <= {*names}
    assert {Path(name).suffix for name in names if name.startswith("funcgrad/")} == {
        *(".css", ".ipynb", ".lark", ".py", ".typed"),
    }
    assert wheel.stat().st_size < 600_000
