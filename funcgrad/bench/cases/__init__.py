"""The cases of `funcgrad bench`: importing this package registers them, in the table's order."""

import importlib

for _name in ["original", "models", "loops", "accumulation", "second_order", "checks", "inside", "sweeps"]:
    importlib.import_module(f"{__name__}.{_name}")
