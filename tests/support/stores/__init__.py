"""What palaces hold, read or written past all engines; and stores in memory."""
