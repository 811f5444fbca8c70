"""The pages that exist in Chinese too, and which state of the English page each was made from.

    python tests/translations.py              copy the English code and made tables to the Chinese
    python tests/translations.py docs/zh/X.md the page says what the English one says now

What was translated is noted section by section in `translations.json`, as a digest of its prose.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTED = Path(__file__).with_suffix(".json")
# Code, and what a program writes into a page: the same in both languages.
SAME = re.compile(
    r"^```.*?^```$|^<!-- made by .*?^<!-- end of what was made -->$", re.DOTALL | re.MULTILINE
)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
SPAN = re.compile(r"`[^`\n]+`")


def english_of(chinese):
    """The page that a Chinese page translates."""
    if chinese.name == "README.zh.md":
        return ROOT / "README.md"
    return ROOT / "docs" / chinese.relative_to(ROOT / "docs" / "zh")


def pages():
    """Each Chinese page with its English one."""
    made = [ROOT / "README.zh.md", *sorted((ROOT / "docs" / "zh").rglob("*.md"))]
    return [(page, english_of(page)) for page in made]


def name(page):
    return page.relative_to(ROOT).as_posix()


def prose(text):
    return SAME.sub("", text)


def levels(text):
    return [len(marks) for marks, _ in HEADING.findall(prose(text))]


def code_of_tables(text):
    """The code in the cells of tables, row by row and cell by cell."""
    rows = [line for line in prose(text).splitlines() if line.startswith("|")]
    return [[SPAN.findall(cell) for cell in row.split(" | ")] for row in rows]


def targets(page):
    """The files a page links to; a Chinese page as the English one it translates."""
    named = {(page.parent / link).resolve() for link in LINK.findall(prose(page.read_text()))}
    english = dict(pages())
    return {english.get(target, target) for target in named} - {page, english.get(page)}


def digests(text):
    """A digest of each section's prose, whatever its line breaks, under its heading."""
    _, *parts = re.split(r"^(#+ .+)$", prose(text), flags=re.MULTILINE)
    return {
        heading.lstrip("# "): hashlib.sha256(" ".join(body.split()).encode()).hexdigest()[:12]
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }


def noted():
    return json.loads(NOTED.read_text())


def copy_code(chinese, english):
    """Gives a Chinese page the blocks of the English one that are the same in both, in order."""
    blocks = iter(SAME.findall(english.read_text()))
    text = SAME.sub(lambda old: next(blocks, old.group()), chinese.read_text())
    chinese.write_text(text)


def stale(chinese, english):
    """The English sections whose prose is not what was translated: changed, new, or gone."""
    then, now = noted().get(name(chinese), {}), digests(english.read_text())
    return [section for section in {**then, **now} if then.get(section) != now.get(section)]


def main(done):
    entries = noted() if NOTED.exists() else {}
    entries |= {page: digests(english_of(ROOT / page).read_text()) for page in done}
    NOTED.write_text(json.dumps(entries, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    for chinese, english in pages():
        copy_code(chinese, english)
        if changed := stale(chinese, english):
            print(f"{name(chinese)}: {', '.join(changed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
