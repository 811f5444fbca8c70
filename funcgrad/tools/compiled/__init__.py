"""What a compiler makes of a function, for a device that need not be there: `compiled`."""

from .call import compiled as compiled
from .report import Compiled as Compiled
