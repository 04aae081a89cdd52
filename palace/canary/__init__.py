"""Which ends of owners were deaths, and what is kept of them."""
