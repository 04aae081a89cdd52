"""Brokers to talk to: in the test's own loop, or played by the test; and odd clients."""
