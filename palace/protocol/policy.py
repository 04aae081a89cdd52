"""What the palace's owner has settled of memories: the settings `redact`, `wrap` and `own_tools`.

Pure.
"""

import attrs

from palace.protocol.resolver import Tree

MEMORIES, ALL, OFF = "memories", "all", "off"  # of `redact`
SHARED, DECREED = "shared", "org"  # of `wrap`
AUTO, ON = "auto", "on"  # of `own_tools`, which may be OFF as well


@attrs.frozen(kw_only=True)
class Policy:
    """See docs/reference/settings.md."""

    redact: str = MEMORIES
    wrap: str = SHARED
    own_tools: str = AUTO


DEFAULT = Policy()


def shows_candidates(own_tools: str, *, pulls: bool) -> bool:
    """Tell whether sessions that aren't confined have the tools for what other palaces know."""
    return pulls and own_tools != OFF


def shows_own(own_tools: str, tree: Tree) -> bool:
    """Tell whether sessions that aren't confined have palace's own tools."""
    return own_tools == ON or (own_tools == AUTO and bool(tree.workspaces))
