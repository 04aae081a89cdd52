"""The owner's process: scheduling, sessions, leaving, watchdog, guests, HTTP."""
