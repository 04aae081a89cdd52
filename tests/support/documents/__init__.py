"""Generated parts of docs/."""
