"""The way to the owner: endpoints, handshake, connector, spawning, control questions."""
