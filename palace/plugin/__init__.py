"""A server elsewhere that holds namespaces of this palace, asked by the memory contract."""
