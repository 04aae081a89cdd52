"""Everything that can be decided without I/O: pure machines and values."""
