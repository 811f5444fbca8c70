"""The pages of docs/: their code runs, block after block, and their links lead somewhere."""

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_a_page_runs(page, request, tmp_path, monkeypatch):
    blocks = BLOCK.findall(page.read_text())
    if any(re.search(r"^(import|from) torch", block, re.MULTILINE) for block in blocks):
        request.getfixturevalue("torch")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    with jax.numpy_dtype_promotion("standard"):  # as it is for who reads the page
        for number, block in enumerate(blocks):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page):
    links = LINK.findall(page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]
