"""Clients that work without a pause, and what must be true of their palace afterwards."""
