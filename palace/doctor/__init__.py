"""`palace doctor`: why writes fail here, or what else is wrong, each with its remedy.

Each module examines one subject: `check_SUBJECT(found)` yields findings in the order in which they
explain each other, and `examine.CHECKS` names it.  Checks change nothing, and try no lock: trying
would take it from another process for an instant.  What may be mended without being asked
twice is a finding's `fix` (`palace doctor --fix`, palace/doctor/mending.py).
The exception is `--drift`, which owns the palace for as long as it compares (drift.py).
"""
