"""The page: what it holds, that it is inert, and how it looks in a real browser."""

from html.parser import HTMLParser

import browser
import pytest
from nbformat.v4 import new_output

from funcgrad.compare import as_html, compare

HOSTILE = [
    "<script>document.title='pwned'</script> 1.5",
    "</pre><img src=x onerror=\"document.title='pwned'\"> 2.5",
    "--><style>*{display:none}</style> &lt; ' \" 3.5",
]
VOID = {"meta", "input", "br"}


class Reader(HTMLParser):
    """Checks that elements are nested well, and collects tags, attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text, self.marked = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "mark":
            self.marked.append(data)


@pytest.fixture
def report(notebook):
    outputs = [new_output("stream", text="\n".join(HOSTILE)), "tensor(5)"]
    recording = notebook(
        "a<b>.ipynb",
        (1, "x.grad", "tensor([ 0.5000, -1.2346,  3.0000])"),
        (2, "<i>", *outputs),
        (3, "y", "tensor(1.)"),
        (9, "z", "tensor([1, 2])"),
    )
    port = notebook(
        "b&c.ipynb",
        (1, "x", "Array([ 0.5, -1.2347,  3.5], dtype=float32)"),
        (2, "y", *outputs),
        (9, "z", "Array([1, 2], dtype=int32)"),
        (10, "", "'only <b>here</b>'"),
    )
    return compare(recording, port, fresh=False)


def test_the_page_holds_the_report_side_by_side(report):
    page = Reader(as_html(report))
    text = "".join(page.text)
    assert page.marked == ["-1.2346", "3.0000", "-1.2347", "3.5"]
    for said in [
        "1 differ, 1 missing", "2 of 3 numbers differ, at [2]: recorded 3.0, ours 3.5",
        "the port has no such cell", "note: recorded int64, ours is int32", "only in the port",
        "tensor([ 0.5000, -1.2346,  3.0000])", "x.grad", "a<b>.ipynb", "b&c.ipynb",
        "no cell is numbered 4 to 8",
    ]:  # fmt: skip
        assert said in text, said
    for hostile in HOSTILE[0].split()[0], "onerror":
        assert hostile in text
    targets = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 5
    assert {link.removeprefix("#") for link in links} <= targets


def test_the_page_needs_nothing_else_and_runs_nothing(report):
    page = Reader(as_html(report))
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "p", "b", "label",
        "input", "nav", "a", "main", "section", "h2", "small", "table", "thead", "tr", "th",
        "tbody", "td", "pre", "mark", "br", "i", "span",
    }  # fmt: skip
    for _, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on") or name == "src"}
        assert attributes.get("href", "#").startswith("#")
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "url(" not in as_html(report)
    assert "@import" not in as_html(report)


def test_what_all_agrees_says_so(notebook):
    path = notebook("a.ipynb", (1, "", "tensor(1.)"))
    assert '<h1 class="agree">All values agree</h1>' in as_html(compare(path, path, fresh=False))


def test_a_long_value_is_cut_and_counted(notebook):
    text = f"tensor([{', '.join(['1.'] * 9000)}])"
    path = notebook("a.ipynb", (1, "", text))
    page = as_html(compare(path, path, fresh=False))
    assert f"[... {len(text) - 20_000} more characters ...]" in page
    assert len(page) < 60_000


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as chromium:
        yield chromium


@pytest.fixture
def opened(chromium, report, tmp_path):
    """Open the page; what it asked for, said, or ran is noted."""
    path = tmp_path / "report.html"
    path.write_text(as_html(report), encoding="utf-8")

    def open_page(**options):
        page = browser.noting(chromium, path.as_uri(), **options)
        page.goto(path.as_uri())
        assert page.noted == []
        return page

    return open_page


@pytest.mark.site
def test_in_a_browser_hostile_outputs_are_text(opened):
    page = opened()
    assert page.title() == "b&c.ipynb against a<b>.ipynb"
    assert page.locator("script, img").count() == 0
    assert page.locator("pre", has_text="tensor(1.)").first.is_visible()


def luminance(colour):
    r, g, b = (int(part) for part in colour[4:-1].split(",")[:3])
    linear = [
        (c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in (r, g, b)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.site
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_it_is_readable_in_light_and_dark(opened, scheme):
    page = opened(color_scheme=scheme)
    ground = "e => { while (getComputedStyle(e).backgroundColor == 'rgba(0, 0, 0, 0)') \
        e = e.parentElement; return getComputedStyle(e).backgroundColor }"
    assert (luminance(page.locator("body").evaluate(ground)) < 0.1) == (scheme == "dark")
    for selector in ["h1", "pre", "mark", "b.differ", "b.agree", "b.missing", "p.note", "td i"]:
        element = page.locator(selector).first
        one = luminance(element.evaluate("e => getComputedStyle(e).color"))
        other = luminance(element.evaluate(ground))
        contrast = (max(one, other) + 0.05) / (min(one, other) + 0.05)
        assert contrast > 4.5, (selector, contrast)  # WCAG AA


@pytest.mark.site
@pytest.mark.parametrize("width", [360, 900, 1400])
def test_in_a_browser_it_fits_the_window(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [page.locator("td[data-side]").nth(n).bounding_box() for n in (0, 1)]
    side_by_side = boxes[0]["y"] == boxes[1]["y"]
    assert side_by_side == (width >= 900)
    assert all(box["width"] > 100 for box in boxes)


@pytest.mark.site
def test_in_a_browser_only_what_differs_can_be_shown(opened):
    page = opened()
    assert page.locator("section:visible").count() == 5
    page.check("#only")
    assert page.locator("section:visible h2").all_inner_texts() == [
        "In [1] cell 1", "In [3] nothing in the port",
    ]  # fmt: skip
