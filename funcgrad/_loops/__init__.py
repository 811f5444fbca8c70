"""Adds one primitive: a loop whose trip count is known at run time only, in every mode of autodiff.

It runs its body while a condition holds and at most `limit` times, reads a row of `xs` and writes
a row of `ys` each time, and compiles to one `while`. Every transformation of it is made of itself:

- its tangent is one loop over primals and tangents together, whose memory is that of one step;
- where the tangents alone are unknown, as in reverse mode, that one splits into a loop that also
  writes down what the linearised body needs, and a loop linear in the tangents; with
  `checkpoints`, into two such pairs, of which the second runs segments of the loop again;
- the transpose of a linear loop is a loop backwards, over the same number of steps;
- its batch is a loop over batches, in which examples that are done keep their values.

So the trip count comes out of the loop that computes, and without `checkpoints` nothing is computed
twice.

Sharp edge: rows of `ys` that no step wrote are unspecified; only loops over the same steps may read
them.
"""

from . import batch, forward, reverse
from . import dce as unused
from .primitive import Loop as Loop
from .primitive import bounded_loop as bounded_loop

del batch, forward, reverse, unused
