"""`palace doctor`: why writes fail here, or what else is wrong, each with its remedy.

Each module examines one thing and yields findings in the order in which they explain each other.
Nothing is changed, and no lock is tried: trying would take it from another process for an instant.
The exception is `--drift`, which owns the palace for as long as it compares (drift.py).
"""
