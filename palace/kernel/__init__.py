"""The port to files, locks, processes, mounts and time; it decides nothing."""
