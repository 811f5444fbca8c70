"""The cases of `funcgrad bench`: importing this package registers them, in the table's order."""

import importlib

_ORDER = "original models loops accumulation second_order checks inside sweeps"
for _name in _ORDER.split():
    importlib.import_module(f"{__name__}.{_name}")
