"""One MCP client's relay, what it answers by itself, and `palace ensure` and `palace dial`."""
