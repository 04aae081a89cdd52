"""The command line: Typer and nothing else. Each command parses, makes one call, returns a code."""
