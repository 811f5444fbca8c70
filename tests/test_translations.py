"""The Chinese pages keep in step with the English ones they translate."""

import pytest
import translations
from translations import ROOT, name, pages

PAGES = pages()
each = pytest.mark.parametrize(("chinese", "english"), PAGES, ids=[name(page) for page, _ in PAGES])


def test_what_newcomers_read_is_there_in_chinese():
    start = ROOT / "docs" / "start.md"
    idioms = (ROOT / "docs").glob("coming-from-pytorch*")
    wanted = {
        ROOT / "README.md",
        start,
        *(page for one in idioms for page in [one, *one.glob("*")]),
    }
    assert {page for page in wanted if page.suffix == ".md"} == {english for _, english in PAGES}


@each
def test_a_page_has_the_headings_of_the_english_one(chinese, english):
    assert translations.levels(chinese.read_text()) == translations.levels(english.read_text())


@each
def test_a_page_has_the_code_of_the_english_one(chinese, english):
    ours, theirs = (translations.SAME.findall(page.read_text()) for page in (chinese, english))
    assert ours == theirs, "run: python tests/translations.py"


@each
def test_the_tables_of_a_page_have_the_code_of_the_english_ones(chinese, english):
    ours, theirs = (translations.code_of_tables(page.read_text()) for page in (chinese, english))
    assert ours == theirs


@each
def test_a_page_leads_where_the_english_one_does(chinese, english):
    ours, theirs = translations.targets(chinese), translations.targets(english)
    assert ours - {english} == theirs - {chinese}


@each
def test_a_page_says_what_the_english_one_says_now(chinese, english):
    changed = translations.stale(chinese, english)
    assert not changed, (
        f"{name(english)} has changed since it was translated, in: {', '.join(changed)}."
        f" Bring {name(chinese)} in step, then run: python tests/translations.py {name(chinese)}"
    )


def test_the_two_readmes_lead_to_each_other():
    assert "(README.zh.md)" in (ROOT / "README.md").read_text()
    assert "(README.md)" in (ROOT / "README.zh.md").read_text()


# The check itself.


def test_a_changed_sentence_is_noticed_and_its_section_named():
    text = "# A\none\n## B\ntwo\n```python\nx\n```\n"
    then = translations.digests(text)
    assert translations.digests(text.replace("one", "\none  ").replace("\nx\n", "\ny\n")) == then
    now = translations.digests(text.replace("two", "three"))
    assert [section for section in now if now[section] != then[section]] == ["B"]


def test_code_and_headings_are_told_from_prose():
    text = "# A\n```sh\n# no heading\n```\n| `a` b | `c` `d` |\n|---|---|\n"
    assert translations.levels(text) == [1]
    assert translations.code_of_tables(text) == [[["`a`"], ["`c`", "`d`"]], [[]]]
