"""Tags found in a program, and what is done at them: read, tapped, watched, hooked.

`find` lists the tags that a program holds, and `run` evaluates the program with an act at each tag
that was asked for. A tap is an input whose gradient is that of the named value. A tag at top level
needs nothing else; one inside a call, a branch or a loop is reached by making the public JAX call
around it anew (`_jax.reenter`), with what the acts take as inputs and what they make as outputs.

Sharp edges: equations without an asked tag inside are handed back to JAX in one piece. An equation
that holds a tag and cannot be made anew raises when the tag is asked for; no gradient is ever
dropped silently.
"""

from .acts import READ as READ
from .acts import SHARED_TAP as SHARED_TAP
from .acts import TAP as TAP
from .acts import Watching as Watching
from .acts import hooked as hooked
from .acts import takes_index as takes_index
from .evaluate import Act as Act
from .evaluate import Acts as Acts
from .evaluate import run as run
from .find import Leaf as Leaf
from .find import Site as Site
from .find import Values as Values
from .find import find as find
