"""Searches of the tree for what breaks its rules; tests/test_gates.py has the rules."""
