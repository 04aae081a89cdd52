"""How soon strangers may cost the loop something again.

A handshake of somebody without a token costs the loop milliseconds and its peer next to nothing.
So each one that fails puts the next off, and all that fail together take no more than a share of
the loop, however many come.

Rule for this file: pure.
"""

import attrs

EACH_S = 0.02  # what a failure puts the next one off: some five times what it costs
MOST_S = 1.0  # a client with a token waits no longer than this after many failures


@attrs.define(eq=False)
class Pace:
    """From which time on the next handshake may begin."""

    next_s: float = float("-inf")

    def failed(self, now_s: float) -> None:
        """Note that a handshake has ended without a token."""
        self.next_s = min(max(self.next_s, now_s) + EACH_S, now_s + MOST_S)
