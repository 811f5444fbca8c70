"""Compares a port with PyTorch, number by number.

There are two rooms, which do not import each other. `recorded` holds a port against the outputs
that a PyTorch notebook stored, without torch:

    read(path)                -> cells, each with its outputs
    parse(text)               -> the values in an output, whatever text it is
    judge(recorded, actual)   -> whether two values agree, and if not, where and by how much
    compare(recording, port)  -> all of it for two files; `funcgrad compare` prints it

`live` holds a JAX function against the torch function that it ports, by running both:

    with_torch(theirs, ours)  -> whether values and gradients agree, and if not, where they part

`tolerances` says how far two numbers may lie apart. Recorded text is never evaluated. Importing
this imports neither torch nor any library of the extra `funcgrad[compare]`.
"""

from ..errors import CompareError as CompareError
from ..errors import ParityError as ParityError
from .live.capture import capture as capture
from .live.parity import assert_matches_torch as assert_matches_torch
from .live.parity import with_torch as with_torch
from .live.report import ParityReport as ParityReport
from .recorded.align_cells import Pair as Pair
from .recorded.align_cells import pair_cells as pair_cells
from .recorded.align_values import pair_values as pair_values
from .recorded.cells import Cell as Cell
from .recorded.cells import Output as Output
from .recorded.compare import compare as compare
from .recorded.files import read as read
from .recorded.html import as_html as as_html
from .recorded.judge import Verdict as Verdict
from .recorded.judge import judge as judge
from .recorded.parse import parse as parse
from .recorded.report import CellReport as CellReport
from .recorded.report import Report as Report
from .recorded.report import Row as Row
from .recorded.report import as_json as as_json
from .recorded.run import run as run
from .recorded.terminal import print_report as print_report
from .recorded.values import Parsed as Parsed
from .recorded.values import Value as Value
from .tolerances import RESOLUTION as RESOLUTION
