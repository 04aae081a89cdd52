"""Engines: the light ones, and the real one in a process of its own."""
