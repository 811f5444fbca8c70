"""Checks gradients numerically: `gradcheck` and `gradgradcheck`.

`call` has the public functions, `checks` what they check, one check after another. `problem` makes
of the function one from real arrays to real arrays, `slopes` measures its derivatives by finite
differences and how far they can be trusted, `analysis` has JAX take them, forward, in reverse and
in batches. `verdict` compares the two, and `report` puts what differs into words.
"""

from .call import gradcheck as gradcheck
from .call import gradgradcheck as gradgradcheck
from .verdict import GradientMismatch as GradientMismatch
