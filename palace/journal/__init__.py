"""Records, segments, appending, replay, checkpoints, copying, purging."""
