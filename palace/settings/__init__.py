"""Which setting counts: environ, the user's settings, palace.toml, paths, the tool catalogue."""
