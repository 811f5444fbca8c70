"""A recording compared with its port: read, parse, align, judge, report.

`compare.py` runs these stages, each in files of its own:

1. read: `read.py` (`notebook.py`, `text_export.py`, `map.py`) reads files as `cells.py` describes
   them; `run.py` executes a port; `asked.py` reads what the user asks of a cell.
2. parse: `parse.py` finds the values in an output text by `grammar.lark` (`grammar.py`, `calls.py`,
   `build.py`, `literals.py`, `legacy.py`), as `values.py` describes them; `contents.py` names them,
   and tells with `rounding.py` (`formats.py`) which numbers a format rounded, with
   `never.py` what is not compared.
3. align: `align_cells.py` and `align_values.py`, both by `sequence.py`.
4. judge: `judge.py`, with hints from `explain.py`.
5. report: `report.py` holds the result; `terminal.py` and `html.py` show it, with the sentences of
   `remarks.py`, the sums of `series.py` and the spans of `marks.py`.
"""
