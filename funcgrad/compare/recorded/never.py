"""What says nothing about the computation, since no two runs share it.

Progress bars, timings, rates, addresses, downloads, devices and printed modules. Only they are left
out: what stands beside them in a line is compared.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from .values import UNIT, Value, suffix_of

_CLOCK = r"[0-9]{1,6}:[0-9]{2}(?::[0-9]{2})?"
_RATE = r"[0-9.?]{1,12} ?[A-Za-z]{1,20}/[A-Za-z]{1,12}"
_BAR = rf"\[{_CLOCK}(?:<(?:{_CLOCK}|\?))?, *+{_RATE}\]?"
_BEFORE_BAR = re.compile(
    r"(?:[0-9]{1,3}%(?:\|[^|\n]*+\|)?)? ?[0-9.]{1,15}[kMGTP]?(?:it|/[0-9.?]{1,15}[kMGTP]?)? ?$"
)
_LONGEST_BAR = 400  # characters that a bar may have before its times
_TIME = r"(?:ns|[uµμ]s|ms|s)"
_DEVICES = ("cuda:", "mps:", "xpu:", "hpu:", "xla:", "TFRT_", "Device(")
_TIMES = ("ns", "us", "µs", "μs", "ms", "s")
_DEVICE = (
    r"(?:cuda|mps|xpu|hpu|xla):[0-9]{1,4}|TFRT_CPU_[0-9]{1,4}"
    r"|(?:Cpu|Cuda|Tpu|Rocm|StreamExecutorGpu)Device\([^()\n]{1,200}\)"
)
# Code and prose in a text whose numbers say nothing about the computation. What must be in the
# text for it to be searched, and the pattern; a layer's settings are those of a printed module.
_LAYERS = (
    r"(?:Lazy)?(?:Linear|Bilinear|Embedding(?:Bag)?|(?:Alpha|Feature)?Dropout|Conv(?:Transpose)?"
    r"|(?:Sync)?Batch(?:Norm)?|Layer(?:Norm)?|Group(?:Norm)?|Instance(?:Norm)?|RMSNorm|(?:Adaptive)?"
    r"(?:Max|Avg)Pool|RNN|LSTM|GRU|Flatten|Leaky(?:ReLU)?|Upsample)\w{0,20}+"
)
_SKIPPED = tuple(
    (needle, re.compile(pattern, re.MULTILINE))
    for needle, pattern in [
        ("[", _BAR),  # tqdm, from its times on; what stands after its rate is the user's
        (
            "±",  # %timeit
            rf"(?<![0-9.])[0-9.]++ ?{_TIME} ± [0-9.]++ ?{_TIME}"
            r"(?: per loop(?: \(mean ± [^()\n]{1,80}\))?)?",
        ),
        (": ", r"^(?:CPU times|Wall time): [^\n]*+"),
        ("://", r"^Downloading (?:\S{1,200}+://|https?://)[^\n]*+"),
        ("id(", r"\bid\([^()\n]{0,60}\) ?[:=]? ?[0-9]{9,}+"),
        ("(", r"^[ \t]*+\([A-Za-z0-9_.]++\): (?:[0-9]++ x )?[A-Z]\w*+\([^\n]*+"),  # in a module
        ("(", rf"^(?:\[|\()?{_LAYERS}\([^()\n]*+(?:\([^()\n]*+\)[^()\n]*+)*+\)[\])]?$"),
        ("(type=", r"device\(type='[a-z]{1,12}'(?:, index=[0-9]{1,4})?\)"),
        *((needle, rf"(?<![\w'\"])(?:{_DEVICE})") for needle in _DEVICES),
    ]
)
_QUOTED_DEVICE = re.compile(rf"(['\"])(?:{_DEVICE}|cpu|cuda|mps|gpu|tpu)\1")


def spans_never_compared(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of what differs from run to run."""
    spans = set()
    for needle, pattern in _SKIPPED:
        done = 0
        for match in pattern.finditer(text) if needle in text else ():
            start = match.start()
            if pattern.pattern == _BAR:
                begin = max(done, text.rfind("\n", done, start) + 1, start - _LONGEST_BAR)
                start = _start_of_bar(text, begin, start)
            done = match.end()
            spans.add((start, done))
    end = 0
    for start, stop in sorted(spans):
        if start >= end:
            yield start, stop
            end = stop


def _start_of_bar(text: str, begin: int, end: int) -> int:
    """Where a progress bar begins whose times begin at `end`: at its percentage or its count."""
    percent = text.rfind("%", begin, end)
    while percent > begin and text[percent - 1].isdecimal():
        percent -= 1
    match = _BEFORE_BAR.fullmatch(text, percent, end) if percent >= begin else None
    match = match or _BEFORE_BAR.search(text, max(begin, end - 40), end)
    return match.start() if match else end


def never_compared(values: Sequence[Value], text: str) -> Iterator[bool]:
    """For each value of a text whether it is a time, a rate or a device."""
    for value, after in zip_longest(values, values[1:]):
        yield _is_device(value) or _is_time(value, after) or _is_rate(value, text)


def _is_time(value: Value, after: Value | None) -> bool:
    """Whether a value is a time, `12.3s`, or the minutes before its seconds, `2m 35s`."""
    unit = suffix_of(value, UNIT)
    if unit in ("m", "h"):
        return (
            after is not None
            and after.start == value.end + 1
            and suffix_of(after, UNIT) in ("m", "s")
        )
    return unit in _TIMES


def _is_rate(value: Value, text: str) -> bool:
    """Whether a value is so much a second, `3.5it/s`."""
    return bool(suffix_of(value, UNIT)) and text.startswith("/s", value.end)


def _is_device(value: Value) -> bool:
    return value.kind == "string" and bool(_QUOTED_DEVICE.fullmatch(value.text))
