"""Adds taps to a traced function: an input whose gradient is that of a named value inside it.

`find` lists the tags a jaxpr holds, and `run` evaluates the jaxpr with a tap at each tag that was
asked for, carrying the tagged value out. A tag at top level needs nothing else; one inside a call,
a branch or a loop needs a rule that threads taps in and values out by re-entering the public JAX
function the equation came from. The rules stand one family to a file.

Sharp edges: equations without an asked tag inside are handed back to JAX in one piece, so a rule
is needed only for what may hold a tag. An equation that holds a tag and has no rule raises when the
tag is asked for; no gradient is ever dropped silently.
"""

from . import branches, calls, loops, meshes
from .walk import Leaf as Leaf
from .walk import Site as Site
from .walk import Values as Values
from .walk import find as find
from .walk import run as run

del branches, calls, loops, meshes
