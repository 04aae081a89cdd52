"""Disks that fill up, fail, and lose their power."""
