"""MCP hosts, and changes of their configurations by splices."""
