"""`gradcheck` of all functions of gradcheck_table.py in float32, bfloat16 and float16, both modes.

Takes minutes, so the tests do a part of it: `python tests/gradcheck_sweep.py [DTYPE...]`.
"""

import sys

from test_gradcheck_all import GROUPS, LOW, check_low

import funcgrad as fg


def main(dtypes):
    """Prints what `gradcheck` says of each group in each dtype; nothing should be said."""
    said = 0
    for dtype in dtypes:
        for group in GROUPS:
            names = ", ".join(group[1])
            try:
                check_low(group, dtype)
            except fg.GradcheckError as error:
                said += 1
                print(f"{dtype}: {names}: {error}", flush=True)
            else:
                print(f"{dtype}: {names}: nothing", flush=True)
    return int(said > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or LOW))
