"""Python imports this at its start where PYTHONPATH names this directory: brokers look often.

Each look over tasks comes at once after the last, and its clock has gone on by a minute, however
long it took: silence is counted in looks, and no test hangs on how fast a machine is.
"""

import itertools
import os
import runpy
import sys
from functools import partial

runpy.run_path(f"{os.path.dirname(os.path.abspath(__file__))}/../prepared.py")

if "serve" in sys.orig_argv:
    from palace.broker import task_watch

    minutes = itertools.count(0, 60)
    task_watch.LOOK_S = 0.2
    stock = task_watch.TaskWatch
    from palace.broker import broker

    broker.TaskWatch = partial(stock, monotonic=lambda: float(next(minutes)))  # type: ignore[attr-defined, assignment]
