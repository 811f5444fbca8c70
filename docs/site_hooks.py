"""Brings into the site what lies outside docs/: notebooks, the changelog, and what pages link to.

Pages are written as GitHub shows them, with links such as `../tests/test_cost.py`. Here a linked
notebook becomes a page, Markdown a page, and any other file a page with its text, so that every
link leads somewhere on the site too.
"""

import base64
import html
import os.path
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
import nbformat
from jinja2 import DictLoader
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)(?=[)#])")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
LANGUAGES = {".py": "python", ".sh": "sh", ".toml": "toml", ".css": "css", ".yml": "yaml"}

# Outputs in a fence of their own, to be told from code.
TEMPLATE = {
    "page.md.j2": """{% extends "markdown/index.md.j2" %}
{% macro shown(text) %}
`````` { .text .output }
{{ text | strip_ansi }}
``````
{% endmacro %}
{% block stream %}{{ shown(output.text) }}{% endblock %}
{% block data_text %}{{ shown(output.data["text/plain"]) }}{% endblock %}
"""
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the notebooks, the changelog, what pages link to, and what that links to."""
    pages = {file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages()}
    waiting = ["CHANGELOG.md"]
    waiting += [f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb")]
    waiting += [target for place in pages.values() for target in _linked(place)]
    while waiting:
        place = waiting.pop()
        if not place.startswith("docs/") and _page(place) not in pages:
            pages[_page(place)] = place
            waiting += _linked(place) if place.endswith((".md", ".ipynb")) else ()
            files.append(File.generated(config, _page(place), content=_markdown(place)))
    config["extra"]["places"] = pages
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Has the links of a page lead to pages of the site."""
    places = config["extra"]["places"]
    here = PurePosixPath(page.file.src_uri).parent
    folder = PurePosixPath(places[page.file.src_uri]).parent

    def led(match: re.Match[str]) -> str:
        target = os.path.normpath(folder / match[1])
        inside = target.startswith("docs/")
        if not inside and _page(target) not in places:
            return match[1]
        there = target.removeprefix("docs/") if inside else _page(target)
        return os.path.relpath(there, here)

    source = page.file.src_uri.startswith("source/")
    return markdown if source else LINK.sub(led, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Has browsers set formulas: MathML in place of TeX, so that no script is needed."""

    def formula(match: re.Match[str]) -> str:
        tex = html.unescape(match[2])
        if match[1] == "span":
            return convert(tex)
        return f'<div class="formula">{convert(tex, display="block")}</div>'

    return FORMULA.sub(formula, content)


def _linked(place: str) -> Iterator[str]:
    """The files and folders of the repository that a page or notebook links to."""
    folder = PurePosixPath(place).parent
    for link in LINK.findall(_text(place)):
        target = os.path.normpath(folder / link)
        if (ROOT / target).exists():
            yield target


def _page(place: str) -> str:
    """The page of the site that a file outside docs/ becomes."""
    path = PurePosixPath(place)
    if path == PurePosixPath("README.md"):
        return "index.md"
    if path.suffix == ".md":
        return str(path).lower()
    return str(path.with_suffix(".md")) if path.suffix == ".ipynb" else f"source/{path}.md"


def _text(place: str) -> str:
    if place.endswith(".ipynb"):
        cells = nbformat.read(ROOT / place, as_version=4).cells
        return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return (ROOT / place).read_text(encoding="utf-8")


def _markdown(place: str) -> str:
    if (ROOT / place).is_dir():
        names = sorted(path.name for path in (ROOT / place).iterdir() if path.name[0] not in "._")
        return "\n".join([f"# {place}", "", *(f"- `{name}`" for name in names), ""])
    if place.endswith(".md"):
        return _text(place)
    if place.endswith(".ipynb"):
        return _notebook(place)
    path = PurePosixPath(place)
    text, fence = _text(place), "`" * 6
    return (
        f"---\nsearch:\n  exclude: true\n---\n\n# {path.name}\n\n`{place}`\n\n"
        f"{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text}\n{fence}\n"
    )


def _notebook(place: str) -> str:
    """A notebook with the outputs it has stored, as Markdown; pictures are part of the page."""
    exporter = MarkdownExporter(extra_loaders=[DictLoader(TEMPLATE)], template_file="page.md.j2")
    body, resources = exporter.from_filename(str(ROOT / place))
    for name, data in resources["outputs"].items():
        kind = {".png": "png", ".jpg": "jpeg", ".svg": "svg+xml"}[Path(name).suffix]
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        body = body.replace(f"]({name})", f"]({uri})")
    # Jupyter's anchors are headings as they stand.
    return re.sub(r"\]\(#[^)]+\)", lambda match: match[0].lower(), body)


class FencedDoctests(griffe.Extension):
    """Puts the examples of docstrings, lines that start with `>>>`, into fences."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each object, once it is loaded."""
        if obj.docstring:
            obj.docstring.value = "\n".join(_fenced(obj.docstring.value.split("\n")))


def _fenced(lines: Iterable[str]) -> Iterator[str]:
    """An example lasts until an empty line."""
    inside = False
    for line in [*lines, ""]:
        if line.lstrip().startswith(">>>") and not inside:
            inside = True
            yield from ("", "```pycon")
        elif not line.strip() and inside:
            inside = False
            yield "```"
        yield line
