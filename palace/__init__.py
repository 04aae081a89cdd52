"""One memory, one writer, everywhere."""

__version__ = "0.1.0"
