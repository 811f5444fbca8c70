"""The site: it builds without a warning, leads nowhere wrong, names all there is, fits a phone."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag, urljoin

import browser
import pytest

import funcgrad
from funcgrad import compare, conventions

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.site
pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'funcgrad[docs]'")


def build(docs, site):
    # Material announces its successor at every start.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    # Not --quiet: warnings that are not shown are not counted by --strict either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", site]
    return subprocess.run(
        command, cwd=docs, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


class Page(HTMLParser):
    """The links of a page, what it loads, and the anchors it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "link" and attrs["rel"] in ("stylesheet", "icon"):
            self.loads.append(attrs["href"])
        if "src" in attrs:
            self.loads.append(attrs["src"])


@pytest.fixture(scope="module")
def pages(site):
    """Every page by its path in the site."""
    return {
        str(path.relative_to(site).parent): Page(path) for path in sorted(site.rglob("index.html"))
    }


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    here = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert here - named == set()


def test_links_and_anchors_lead_somewhere(site, pages):
    dead = []
    for name, page in pages.items():
        for link in page.links + page.loads:
            if re.match(r"\w+:", link):
                continue
            path, anchor = urldefrag(urljoin(f"/{name}/", link))
            target = os.path.normpath(unquote(path)).lstrip("/") or "."
            if target in pages:
                alive = unquote(anchor) in pages[target].anchors
            else:
                alive = (site / target).is_file()
            dead += [] if alive else [(name, link)]
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(pages):
    loads = {link for page in pages.values() for link in page.loads}
    assert len(loads) > 3
    assert [link for link in loads if re.match(r"(\w+:)?//", link)] == []


def test_formulas_need_no_script(site):
    texts = [path.read_text(encoding="utf-8") for path in site.rglob("notebooks/*/index.html")]
    assert sum(text.count("<math") for text in texts) > 10
    assert not [text for text in texts if "arithmatex" in text]


def public(module):
    return [
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    ]


@pytest.mark.parametrize("module", [funcgrad, compare, conventions], ids=lambda m: m.__name__)
def test_the_reference_has_every_public_name(module, pages):
    described = set().union(*(p.anchors for name, p in pages.items() if "reference" in name))
    names = public(module)
    assert len(names) > 20
    assert [name for name in names if name not in described] == []


def test_a_dead_anchor_and_a_page_outside_the_navigation_stop_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home")
    (tmp_path / "docs" / "stray.md").write_text("[nowhere](index.md#not-there)")
    settings = {"docs_dir": "docs", "nav": ["index.md"], "hooks": [], "plugins": []}
    settings |= {"INHERIT": str(ROOT / "mkdocs.yml"), "extra_css": []}
    (tmp_path / "mkdocs.yml").write_text(json.dumps(settings))
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    assert "  - stray.md" in built.stderr
    assert "#not-there" in built.stderr


@pytest.fixture(scope="module")
def served(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def phone(served):
    """A browser page 390 wide."""
    with browser.chromium() as chromium:
        yield browser.noting(chromium, served, viewport={"width": 390, "height": 844})


EMPTY_INDEX = {
    "config": {"lang": ["en"], "separator": "[\\s]+", "pipeline": [], "fields": {}},
    "docs": [],
}


def test_no_page_is_wider_than_a_phone(phone, served, pages):
    wide = {}
    # Without what is searched, which takes longer to load than a page.
    phone.route("**/search_index.json", lambda route: route.fulfill(json=EMPTY_INDEX))
    for name in pages:
        if name.startswith("source/tests/"):
            continue  # files shown whole, all alike
        phone.goto(served + ("" if name == "." else f"{name}/"))
        width = phone.evaluate("document.documentElement.scrollWidth")
        if width > 390:
            wide[name] = width
    phone.unroute("**/search_index.json")
    assert (wide, phone.noted) == ({}, [])


def test_the_search_finds_a_function(phone, served):
    phone.goto(f"{served}?q=retain_grad")
    found = phone.locator(".md-search-result__link[href*='funcgrad.retain_grad']").first
    found.wait_for(state="attached", timeout=20_000)
    phone.goto(urljoin(phone.url, found.get_attribute("href")))
    assert phone.locator("[id='funcgrad.retain_grad']").is_visible()
    assert phone.noted == []
