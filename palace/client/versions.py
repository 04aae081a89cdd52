"""A broker of another protocol, or one that refuses (docs/decisions/0012).  Loaded then alone."""

from palace.client.handshake import Conversation, Response, open_socket
from palace.protocol import wire
from palace.protocol.errors import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from palace.settings.site import Site

ANSWER_S = 5.0


def _number(fields: "dict[str, str]", name: str) -> int:
    try:
        return wire.whole_number(fields.get(name, ""))
    except ValueError:
        return 0


def after_refusal(response: Response, site: "Site", path: str) -> "tuple[bool, int]":
    """Return whether the broker makes room for a younger one, and which version both speak.

    `path` is its socket, "" where it must not be asked to; only an older one ever is.
    """
    newest = _number(response.fields, "newest")
    oldest = _number(response.fields, "oldest")
    version = wire.common_version(oldest, newest) if newest else 0
    is_older = 0 < newest < wire.OLDEST
    return bool(path) and is_older and _leaves(path, newest, site), version


def reason_of(response: Response) -> str:
    """Return a broker's words for its refusal, with the command that brings us up to it."""
    text = response.fields.get("text", "the broker refused us")
    if _number(response.fields, "oldest") <= wire.VERSION:
        return text
    from palace.settings.installation import command_for

    return f"{text}: {command_for()}"


def _leaves(path: str, version: int, site: "Site") -> bool:
    header = wire.encode_header(wire.CONTROL, {"ask": "upgrade"}, version=version)
    try:
        conversation = Conversation(open_socket(path), site.paths, site.kernel)
    except OSError:
        return False
    try:
        return conversation.ask(header, ANSWER_S).kind == wire.ANSWER
    except (OSError, WireError):
        return False
    finally:
        conversation.close()
