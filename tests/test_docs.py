"""The pages of docs/: their code runs, block after block, and their links lead somewhere."""

import ast
import linecache
import re
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest
from tiers import slow_but

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ENGLISH = [page for page in PAGES if "zh" not in page.relative_to(DOCS).parts]  # zh: same code
IDIOMS = [page for page in ENGLISH if page.parent.name == "coming-from-pytorch"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)\s]*)?\)")
TORCH = re.compile(r"^(import|from) torch", re.MULTILINE)


def name(page):
    return str(page.relative_to(ROOT))


def run(block, file, names):
    """As from a file: `autograph` reads the source of a function."""
    linecache.cache[file] = (len(block), None, block.splitlines(keepends=True), file)
    exec(compile(block, file, "exec"), names)


FIRST = ["index", "start"]
RUN = [page for page in ENGLISH if page.stem != "models"]  # by tests/_models/test_library_page.py


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in")
@pytest.mark.parametrize("page", slow_but(lambda page: page.stem in FIRST, RUN), ids=name)
def test_code_of_a_page_runs(page, request, tmp_path, monkeypatch):
    blocks = BLOCK.findall(page.read_text())
    if page in IDIOMS:  # PyTorch's lines and funcgrad's are programs of their own
        blocks = [block for block in blocks if find_spec("torch") or not TORCH.search(block)]
    elif any(map(TORCH.search, blocks)):
        request.getfixturevalue("torch")
    if any("from flax" in block for block in blocks):
        pytest.importorskip("flax", reason="Flax is not installed: pip install 'funcgrad[models]'")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    with jax.numpy_dtype_promotion("standard"):  # as it is for who reads the page
        for number, block in enumerate(blocks):
            run(block, f"<{name(page)}, block {number}>", names)


def facts(block):
    """What a block asserts: the right-hand side of each `assert ... == ...`, or that it is true."""
    tests = [node.test for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Assert)]
    return [
        ast.unparse(test.comparators[0]) if isinstance(test, ast.Compare) else "True"
        for test in tests
    ]


@pytest.mark.parametrize("page", IDIOMS, ids=name)
def test_a_page_on_an_idiom_asserts_the_same_numbers_of_both(page):
    theirs, ours, *_ = BLOCK.findall(page.read_text())
    assert TORCH.search(theirs)
    assert not TORCH.search(ours)
    if page.name != "detect-anomaly.md":  # about messages, which differ
        assert facts(theirs) == facts(ours) != []


def test_every_page_on_an_idiom_is_in_the_table():
    overview = (DOCS / "coming-from-pytorch.md").read_text()
    assert len(IDIOMS) >= 20
    assert not [page for page in IDIOMS if f"(coming-from-pytorch/{page.name})" not in overview]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_links_of_a_page_lead_somewhere(page):
    links = LINK.findall(page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_start_has_the_two_commands_of_the_readme():
    command = re.compile(r"^python3 -m venv .* && .*$", re.MULTILINE)
    commands = command.findall((DOCS / "start.md").read_text())
    assert commands == command.findall((ROOT / "README.md").read_text())
    assert len(commands) == 2
