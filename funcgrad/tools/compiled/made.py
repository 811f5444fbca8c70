"""What a compiled program tells: its text, its memory and its costs."""

from typing import Any

KEYS = {
    "arguments": "argument",
    "results": "output",
    "aliased": "alias",
    "temporaries": "temp",
    "code": "generated_code",
}


def made(program: Any) -> dict[str, Any]:
    """The text, memory and costs of what JAX has compiled."""
    stats = program.memory_analysis()
    memory = {name: getattr(stats, f"{key}_size_in_bytes") for name, key in KEYS.items()}
    on_host = ("argument", "output", "temp")
    memory["host"] = sum(getattr(stats, f"host_{key}_size_in_bytes") for key in on_host)
    memory["peak"] = getattr(stats, "peak_memory_in_bytes", 0)
    costs = program.cost_analysis() or {}
    told = {key: costs[key] for key in ("flops", "bytes accessed") if key in costs}
    return {"text": program.as_text(), "memory": memory, "costs": told}
