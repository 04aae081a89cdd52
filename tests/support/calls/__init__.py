"""What clients ask: sensible calls, odd ones, every change, and replies to compare."""
