"""Fault injection: signals, failpoints, system calls, damaged files, other versions."""
