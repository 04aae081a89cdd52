"""What `palace shim --help` says; read by nobody else, so that no start pays for it."""

USAGE = """usage: palace shim [--palace DIR]

What an MCP host runs: it speaks MCP on stdin and stdout and relays to the palace's broker, which
it finds or starts. Register `palace shim` as a stdio server; the same text works everywhere.

  --palace DIR   the palace (default: $MEMPALACE_PATH, else where mempalace keeps it)

environment:
  MEMPALACE_PATH      the palace, or its parent directory
  MEMPALACE_BROKER    a broker to use as it stands, e.g. unix:/run/palace.sock; nothing is started
  PALACE_NO_SPAWN=1   never start a broker
  PALACE_IDLE_S       idle seconds after which a broker that this shim starts leaves
  MEMPALACE_MCP_READ_ONLY=1   this session may not change the palace
"""
