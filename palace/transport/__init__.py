"""Lines over sockets, websockets and HTTP, for Trio."""
