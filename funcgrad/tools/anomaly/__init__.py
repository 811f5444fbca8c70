"""Finds the operation that made the first NaN: `detect_anomaly`.

`detect` is the public function, and `programs` what it traces and compiles once. `flags` adds to a
compiled program one flag that says whether it is worth a look. `walk` takes that look, equation by
equation, with `loops` for the steps of loops and `devices` for `shard_map`; what it finds is in the
terms of `values` and `events`, and `rooms` says what of it is no concern of the user's. `report`
puts it into words, with `examples` for the examples of a `vmap`, `segments` for the iterations of
loops, and `hints` for what usually helps: `follow` asks the values, `kinks` knows where operations
have no derivative.
"""

from .detect import detect_anomaly as detect_anomaly
from .report import Anomaly as Anomaly
