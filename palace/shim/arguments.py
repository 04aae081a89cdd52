"""What `palace shim` and `palace ensure` are told on their command line."""

from palace.protocol.errors import ConfigError
from palace.settings.given_path import GivenPath


def parse_arguments(arguments: "list[str]", usage: str = "") -> str:
    """Return the value of --palace, "" without one; raises ConfigError for anything else.

    `usage` is shown with it, by default the shim's.
    """
    palace = ""
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name != "--palace" or not (equals or rest):
            from palace.shim.usage import USAGE

            raise ConfigError(f"don't know what to do with {name!r}.\n{usage or USAGE}")
        palace = value if equals else rest.pop(0)
        if not palace:
            GivenPath(palace, name)  # which refuses it: an empty one is not the default
    return palace
