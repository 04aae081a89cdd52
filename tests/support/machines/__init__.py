"""Machines and what lies between them: namespaces, containers, mounts, ssh."""
