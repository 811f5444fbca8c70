"""Finds the operation that made the first NaN: `detect_anomaly`.

`detect` is the public function. `walk` evaluates a program equation by equation, with `loops` for
the steps of loops and `devices` for `shard_map`; what it finds is in the terms of `values` and
`events`. `flags` adds to a compiled program one flag that says whether it is worth a look. `report`
puts what was found into words, with `examples` for the examples of a `vmap`, `segments` for the
iterations of loops and `hints` for what usually helps.
"""

from .detect import detect_anomaly as detect_anomaly
from .report import Anomaly as Anomaly
