"""Which palace may have carried out what one client still waits for.

Theory of operation.  A client is carried to another palace where that one has what its own can't
have: the right to write the tables of a database.  Each palace's journal knows what was carried out
there, and nothing of the other's.  So a shim keeps, of each line that a connection leaves
unanswered, to which palace it went.  The next HELLO names those that went to another one, and of
these the broker says that it doesn't know what became of them, unless they change nothing.

Rule for this file: pure, light (the shim imports it).
"""


class SentTo:
    """The unanswered lines of one session that may have run, by ordinal, each with its palace."""

    __slots__ = ("_palaces",)

    def __init__(self) -> None:
        self._palaces: dict[int, str] = {}

    def note(self, ordinals: "list[int]", palace: str) -> None:
        """Note that a connection to `palace` left these lines, which may have run.

        One that another palace had before stays that one's: of it `palace` was told so, and ran
        nothing.
        """
        self._palaces = {one: self._palaces.get(one, palace) for one in ordinals}

    def than(self, palace: str, ordinals: "list[int]") -> "list[int]":
        """Return those of `ordinals` that went to another palace; none where that has no name."""
        if not palace:  # a guest's, of which only one address is known
            return []
        return [one for one in ordinals if self._palaces.get(one, palace) != palace]
