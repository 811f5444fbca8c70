"""Compares what a port shows with what PyTorch showed, number by number.

    read(path)                -> cells, each with its outputs
    parse(text)               -> the values in an output, whatever text it is
    judge(recorded, actual)   -> whether two values agree, and if not where and by how much
    compare(recording, port)  -> all of it for two files; `funcgrad compare` prints it
    with_torch(theirs, ours)  -> a JAX function held against the torch function itself

Recorded text is never evaluated. Importing this does not import torch, and of the extra
`funcgrad[compare]` nothing before it is needed.
"""

from ._align import Pair as Pair
from ._align import pair_cells as pair_cells
from ._align import pair_values as pair_values
from ._cells import Cell as Cell
from ._cells import Output as Output
from ._compare import CellReport as CellReport
from ._compare import Report as Report
from ._compare import Row as Row
from ._compare import compare as compare
from ._errors import CompareError as CompareError
from ._html import as_html as as_html
from ._judge import RESOLUTION as RESOLUTION
from ._judge import Verdict as Verdict
from ._judge import judge as judge
from ._live import assert_matches_torch as assert_matches_torch
from ._live import with_torch as with_torch
from ._live_capture import capture as capture
from ._live_report import ParityError as ParityError
from ._live_report import ParityReport as ParityReport
from ._parse import parse as parse
from ._read import read as read
from ._report import as_json as as_json
from ._report import print_report as print_report
from ._run import run as run
from ._values import Parsed as Parsed
from ._values import Value as Value
