"""What a shared memory may hold, and how it is shown; stores are handed in."""
