"""Reports as strict JSON, which has no infinities, no NaN and no complex numbers."""

import json
import math
from typing import Any


def strict_json(data: Any) -> str:
    r"""Data of dicts, sequences and numbers as JSON; a number that JSON lacks becomes a string.

    >>> strict_json({"numbers": (1, float("nan"), 2j)})
    '{\n "numbers": [\n  1,\n  "nan",\n  "2j"\n ]\n}\n'
    """
    return json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, complex) or (isinstance(data, float) and not math.isfinite(data)):
        return str(data)
    return data
