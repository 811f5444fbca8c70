"""Loops whose trip count is known at run time only, differentiable in every mode.

`while_loop` and `fori_loop` (`public`) are made of one primitive, `bounded_loop` (`primitive`).

The primitive runs its body while a condition holds and at most `limit` times. Each step reads a row
of `xs` and writes a row of `ys`. It compiles to one `while`. Every transformation of it is made of
itself:

- its tangent is one loop over primals and tangents together, whose memory is that of one step;
- in reverse mode, where the tangents alone are unknown, that one splits into a loop that also
  writes down the residuals of the linearised body, and a loop linear in the tangents; with
  `checkpoints` it splits into two such pairs, of which the second runs segments again;
- the transpose of a linear loop is a loop backwards, over the same number of steps;
- its batch is a loop over batches, in which examples that are done keep their values.

The trip count is a result of the loop that computes. Without `checkpoints` nothing is computed
twice.

Sharp edge: rows of `ys` that no step wrote are unspecified; only loops over the same steps may read
them.
"""

from . import anatomy, batch, dce, forward_mode, reverse_mode
from .primitive import Loop as Loop
from .primitive import bounded_loop as bounded_loop

del anatomy, batch, dce, forward_mode, reverse_mode
