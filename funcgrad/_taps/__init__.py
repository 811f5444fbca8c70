"""Tags found in a program, and taps at them: inputs whose gradient is that of a named value.

`find` lists the tags a program holds, and `run` evaluates the program with a tap at each tag that
was asked for, and carries the tagged value out. A tag at top level needs nothing else; one inside a
call, a branch or a loop is reached by making the public JAX call around it anew
(`_jax.reenter`), with the taps as inputs and the values as outputs.

Sharp edges: equations without an asked tag inside are handed back to JAX in one piece. An equation
that holds a tag and cannot be made anew raises when the tag is asked for; no gradient is ever
dropped silently.
"""

from .find import Leaf as Leaf
from .find import Site as Site
from .find import Values as Values
from .find import find as find
from .tag_gradients import run as run
