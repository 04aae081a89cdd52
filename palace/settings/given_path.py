"""A path as somebody wrote it: into a command line, a variable or a file of settings.

Text that some other program should have expanded, or that was meant for another place, is a valid
name to the kernel: taken for a relative path it would make a second, empty palace in whatever
project an agent happens to work in.  So every setting and argument that is a path becomes a
GivenPath before anything is done with it.

Standard library only, and light: the shim imports this.
"""

import os

from palace.protocol.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN_CHARS = 80
# Words for "no value" in the languages that hosts' configurations are written with.
_NOTHING = ("undefined", "null", "nil", "None", "NaN", "true", "false", "True", "False")
# Characters that shells, templates and data formats give a meaning to.
_SYNTAX = {
    "{": "a brace, as templates and JSON have",
    "}": "a brace, as templates and JSON have",
    "<": "a bracket, as placeholders have",
    ">": "a bracket, as placeholders have",
    '"': "a quotation mark",
    "`": "a backquote, as shells replace",
    "*": "an asterisk, as shells replace",
    "\\": "a backslash, which separates no directories here",
}


class GivenPath:
    """`text` as it stands at `where`: "--palace", "$MEMPALACE_PATH", "graph in /p/palace.toml".

    Making one raises ConfigError for text that nobody can have meant as a path.
    """

    __slots__ = ("text", "where")

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        for problem in _problems(text):
            raise self.refused(problem)

    def refused(self, problem: str) -> ConfigError:
        """Return the error that says where the text stands and why it is no path."""
        shown = self.text if len(self.text) <= SHOWN_CHARS else f"{self.text[:SHOWN_CHARS]}..."
        return ConfigError(
            f"{self.where} is {shown!r}, which can't be meant as a path: {problem}. "
            "Write the path out in full."
        )

    @property
    def absolute(self) -> str:
        """Return the path; raises ConfigError for one that depends on the current directory."""
        if not os.path.isabs(self.text):
            raise self.refused("it does not begin with /")
        return self.text


def _problems(text: str) -> "Iterator[str]":
    if not text.strip():
        yield "it is blank" if text else "it is empty"
    if text != text.strip():
        yield "it begins or ends with white space"
    if not text.isprintable():
        yield "it has control characters, or bytes that are no text"
    if text in _NOTHING:
        yield f"{text} is a word for no path"
    if text.startswith("-"):
        yield "it begins like an option"
    if text[0] in "['":
        yield "it is quoted, or a list"
    yield from _unexpanded(text)
    if ":/" in text:
        yield "it is a URL, a list of paths, or has the letter of a drive"
    for sign, called in _SYNTAX.items():
        if sign in text:
            yield f"it has {called}"


def _unexpanded(text: str) -> "Iterator[str]":
    """Yield the variables and homes that whatever wrote the text was to replace."""
    for name in text.split("$")[1:]:
        if name[:1].isalpha() or name[:1] in ("_", "(", "{"):
            yield f"${name.partition('/')[0]} was not expanded"
    for name in text.split("%")[1:-1]:
        if name.replace("_", "a").isalnum() and not name.isdigit():
            yield f"%{name}% was not expanded"
    if "%(" in text or (text.startswith("__") and text.endswith("__")):
        yield "a placeholder in it was not replaced"
    if "..." in text.split("/") or "\N{HORIZONTAL ELLIPSIS}" in text:
        yield "a part of it was left out"
    if "~" in text.split("/")[1:]:
        yield "~ stands for a home only at its beginning"
