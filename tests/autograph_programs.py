"""Random small programs as people write them: control flow on objects that change in place.

python tests/autograph_programs.py 17          # shows one program, and what becomes of it
python tests/autograph_programs.py 0 5000      # runs many, tells what is wrong with which
"""

import importlib.util
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg

HEAD = """\
import collections
import functools
import jax.numpy as jnp
import numpy as np

SHARED = {"n": 0.0, "log": [1.0]}
COUNT = 0.0


class Box:
    made = 0.0

    def __init__(self, v):
        self.v, self.items, self.inner = v, [v], {"w": v}

    def push(self, v):
        self.items.append(v)
        return v

    def add(self, v):
        self.v = self.v + v
        self.inner["w"] = self.inner["w"] - v
        return self.v

    def mark(self):
        Box.made = Box.made + 1.0


class Slotted:
    __slots__ = ("u", "extra")

    def __init__(self, u):
        self.u = u


def counted(v):
    global COUNT
    COUNT = COUNT + 1.0
    counted.calls = counted.calls + 1
    return 0.5 * v


counted.calls = 0


def shared(v):
    SHARED["n"] = SHARED["n"] + v
    return v


@functools.lru_cache
def table(k):
    return 0.25 * k


def reset():
    global COUNT
    COUNT, counted.calls, Box.made = 0.0, 0, 0.0
    SHARED.clear()
    SHARED.update(n=0.0, log=[1.0])


def program(x, xs):
    a, b, k = x, 0.5, 1
    L, M, D = [x, 1.0, 2.0], [0.5, 0.25, -1.0], {"p": 1.0, "q": x}
    o, s = Box(0.5), Slotted(1.0)
    N, B, S, Q = [L, [3.0]], np.zeros(3), {1}, collections.deque([1.0, 2.0])
    fs, c, it = [], 0.0, iter([1.0, 2.0, 3.0, 4.0, 5.0])

    def bump(v):
        nonlocal c
        c = c + v
        return c

    def first():
        return L[0] + b

"""

TAIL = """\
    return {
        "a": a, "b": b, "k": k, "L": L, "M": M, "D": D, "D.keys": [ord(key[0]) for key in D],
        "p": "p" in D, "new": D.get("new", -1.0), "v": o.v, "items": list(o.items),
        "w": o.inner["w"], "made": Box.made, "u": s.u, "extra": hasattr(s, "extra"),
        "N": [list(part) for part in N], "B": B.sum(), "S": len(S), "Q": list(Q),
        "fs": [f(1.0) for f in fs], "c": c, "first": first() if L else 0.0,
        "SHARED": SHARED["n"], "log": list(SHARED["log"]), "COUNT": COUNT,
        "calls": counted.calls, "same": [L is M, N[0] is L],
    }
"""


class Writer:
    """Writes one program's body, by a seed."""

    def __init__(self, seed: int):
        self.random, self.lines, self.loops = random.Random(seed), [], 0
        self.rare = self.random.choice((0.03, 0.1, 0.4))
        self.block(1, self.random.randint(3, 6), in_loop=False)

    def source(self) -> str:
        return HEAD + "\n".join(self.lines) + "\n" + TAIL

    def put(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def some(self, *choices: str) -> str:
        return self.random.choice(choices)

    def value(self, deep: int = 0) -> str:
        simple = (
            "a", "b", "x", "1.0", "-0.5", "2.0", 'D["p"]', 'D["q"]', "o.v", "s.u", 'o.inner["w"]',
            "L[0]", "M[0]", "c", 'SHARED["n"]', "COUNT", "xs[0]", "o.items[-1]",
            'D.get("new", 3.0)',
        )  # fmt: skip
        if deep > 1 or self.random.random() < 0.5:
            return self.some(*simple)
        u, v = self.value(deep + 1), self.value(deep + 1)
        return self.some(
            f"0.5 * {u} + {v}", f"{u} - {v}", f"max({u}, {v})", f"abs({u})", f"counted({u})",
            f"shared({u})", f"bump({u})", f"o.add({u})", f"0.25 * {u} * {v}", "len(L) * 1.0",
            f"({u} if {self.test(2)} else {v})", f"table(k) + {u}", "sum(M)", "first()",
            "next(it, 0.0)", f"o.push({u})",
        )  # fmt: skip

    def test(self, deep: int = 0) -> str:
        u = self.some("a", "x", "b", 'D["p"]', "o.v", "L[0]", "x", "xs[1]", "x")
        plain = f"{u} > {self.some('0.3137', '1.1239', '-0.7171')}"
        if deep or self.random.random() < 0.7:
            return plain
        other = self.some("len(L) > 2", '"new" in D', f"{self.value()} > 0.6373", "not M", "k > 1")
        return self.some(
            f"{plain} and {other}", f"{other} and {plain}", f"{plain} or {other}",
            f"not {plain}", f"-2.3131 < {u} < 1.7373", f"{plain} and bump(1.0) > 2.5151",
        )  # fmt: skip

    def block(self, depth: int, count: int, in_loop: bool) -> None:
        for _ in range(count):
            draw = self.random.random()
            if depth > 3 or draw < 0.55:
                self.simple(depth)
            elif draw < 0.78:
                self.put(depth, f"if {self.test()}:")
                self.block(depth + 1, self.random.randint(1, 2), in_loop)
                leave = self.random.random()
                if in_loop and leave < 0.25:
                    self.put(depth + 1, self.some("break", "continue"))
                elif leave < 0.03:
                    self.put(depth + 1, "return {'early': a}")
                if self.random.random() < 0.5:
                    self.put(depth, "else:")
                    self.block(depth + 1, self.random.randint(1, 2), in_loop)
            else:
                self.loop(depth)

    def loop(self, depth: int) -> None:
        self.loops += 1
        i = f"i{self.loops}"
        kind = self.some("range", "range", "rows", "enumerate", "list", "while", "count")
        if kind == "while":
            self.put(depth, f"{i} = x")
            self.put(depth, f"while {i} < 2.0313:")
            self.put(depth + 1, f"{i} = {i} + 0.75")
        elif kind == "count":
            self.put(depth, f"{i} = 0")
            self.put(depth, f"while {i} < 3:")
            self.put(depth + 1, f"{i} += 1")
        else:
            goes_over = {
                "range": f"{i} in range({self.some('2', '3', 'len(L)')})",
                "rows": f"{i} in xs",
                "enumerate": f"{i}, row in enumerate(xs)",
                "list": f"{i} in {self.some('[1.0, 2.0]', 'L[:2]', '(0.5, b)')}",
            }
            self.put(depth, f"for {goes_over[kind]}:")
        if self.random.random() < 0.3:
            self.put(depth + 1, f"fs.append(lambda z: z * {i})")
        if self.random.random() < 0.3:
            self.put(depth + 1, f"a = a + 0.5 * {i}")
        self.block(depth + 1, self.random.randint(1, 3), in_loop=True)

    def simple(self, depth: int) -> None:
        v = self.value()
        common = (
            f"a = {v}", f"b = {v}", f"L[0] = {v}", f"L[-1] = {v}", f'D["p"] = {v}', f"o.v = {v}",
            f"D.update(q={v})", f"s.u = {v}", f"o.add({v})", f"bump({v})", f"shared({v})",
            f'o.inner["w"] = {v}', f"M[0] = {v}", "k += 1", f"a, b = b, {v}", f"N[0][0] = {v}",
            f"b += {v}", f'SHARED["n"] += {v}', f'SHARED["log"][0] = {v}', f"o.items[0] = {v}",
            f"counted({v})", "Q.rotate(1)", "o.mark()",
        )  # fmt: skip
        rare = (
            f"L.append({v})", f"M.append({v})", "b = M.pop()", "L.pop()", f'D["new"] = {v}',
            'b = D.pop("new", 0.5)', f'D.setdefault("new", {v})', f"s.extra = {v}", f"o.push({v})",
            "B[1] = 2.0", "B += 1", f"B[k - 1] = {v}", "S.add(k)", "S.discard(1)", f"Q.append({v})",
            "Q.popleft()", "b = next(it, 0.0)", "M = L", f"M = [{v}]", f"L = [{v}, 2.0, 0.0]",
            "L, M = M, L", f"fs.append(lambda z: z + b * {self.some('1.0', 'a')})", f"L += [{v}]",
            f"L.insert(0, {v})", "L.reverse()", "b = np.random.rand() * 0.0", "del M[0]",
            "M.clear()",
            f"o.items = [{v}]", f'o.inner = {{"w": {v}}}', "N[1] = M", "D = dict(D)", "N.append(M)",
            f"D |= {{'q': {v}}}", f"M = [{v}] if {self.test(1)} else M", "M = list(L)",
        )  # fmt: skip
        self.put(
            depth, self.some(*common) if self.random.random() > self.rare else self.some(*rare)
        )


def loaded(seed: int, folder: str) -> Any:
    """The module of a program."""
    path = Path(folder) / f"program_{seed}.py"
    path.write_text(Writer(seed).source())
    spec = importlib.util.spec_from_file_location(f"program_{seed}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


XS = np.array([0.5, -1.0, 1.5], np.float32)
INPUTS = (0.6, -1.2, 1.4)


def outcome(seed: int) -> str:
    """`right`, `refused`, `raises` (in Python too), or what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        module = loaded(seed, folder)
        compiled = jax.jit(fg.autograph(module.program, max_steps=16))
        found = set()
        for x in INPUTS:
            found.add(_outcome(module, compiled, x))
    return max(found, key=lambda x: (x not in ("right", "refused", "raises"), x == "right", x))


def _outcome(module: Any, compiled: Any, x: float) -> str:
    module.reset()
    try:
        want = module.program(x, [float(v) for v in XS])
        if len(str(want)) > 4000:
            return "raises"  # it grows
    except Exception:
        return "raises"
    module.reset()
    try:
        got = compiled(x, jnp.asarray(XS))
    except fg.FuncgradError:
        return "refused"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
    return difference(got, want)


def difference(got: Any, want: Any) -> str:
    """`right`, or where two results differ."""
    if jax.tree.structure(got) != jax.tree.structure(want):
        return f"wrong: {jax.tree.structure(got)} and not {jax.tree.structure(want)}"
    for path, ours in jax.tree_util.tree_leaves_with_path(got):
        theirs: Any = want
        for key in path:
            theirs = theirs[getattr(key, "key", getattr(key, "idx", None))]
        if not np.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
            return f"wrong: {jax.tree_util.keystr(path)} is {ours} and not {theirs}"
    return "right"


def main(first: int, end: int | None = None) -> None:
    if end is None:
        print("".join(Writer(first).source().partition("    def bump")[1:]))
    found = Counter[str]()
    for seed in range(first, first + 1 if end is None else end):
        result = outcome(seed)
        found[result.partition(":")[0]] += 1
        if result.startswith("wrong") or end is None:
            print(seed, result, flush=True)
        if (seed + 1) % 100 == 0:
            print(dict(found), flush=True)
    print(dict(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
