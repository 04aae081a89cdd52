"""Deterministic simulation: whole palaces with all their processes in one, decided by a seed.

The real `palace serve`, the real `palace shim`, the real journal and the real Trio run here, each
simulated process with its own threads and its own event loop; only the engine is a small one
(engine.py).  What lies beneath them is simulated: time, threads and their order, system calls and
their failures, processes and their deaths, the disk and power cuts (world.py, kernel.py, disk.py).

    python -m tests.sim --seed 1424          one seed again, with its event log
    python -m tests.sim --seeds 0..10000     many
    python -m tests.sim --soak               until interrupted
"""
