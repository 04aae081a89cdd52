"""Who has claimed a task, as the broker learns it: by what its worker is told.

A claim is known by its event's id.  The session whose reply tells it stands for it: as long as
that session's client is there, its worker is not silent.  The broker tells its shim, which tells
the next broker, as it does of workspaces.

Rule for this file: pure, light (the shim's HELLO is read with it).
"""

from collections.abc import Iterable, Mapping

from palace.protocol.decoding import decode_json

CLAIMING = frozenset({"mempalace_event_ack", "mempalace_event_append", "palace_heartbeat"})
CLAIMED = "claimed"
CLAIMS_MAX = 64  # of one session, the newest
_ID_CHARS_MAX = 60
_REPLY_BYTES_MAX = 1 << 20  # stock's replies repeat a body, of 256 KiB at most


def is_claim(name: str, arguments: Mapping[str, object]) -> bool:
    """Tell whether a call's reply may say that its session has claimed a task."""
    return name == "palace_heartbeat" or arguments.get("status") == CLAIMED


def claim_in(payload: bytes) -> str:
    """Return the claim that a reply to such a call tells, "" where it tells none."""
    if len(payload) > _REPLY_BYTES_MAX:
        return ""
    try:
        told = decode_json(decode_json(payload)["result"]["content"][0]["text"])
        task = told.get("task")
        found = task.get("claim") if task is not None else told["event"]["id"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return ""
    return found if isinstance(found, str) and _is_id(found) else ""


def encode_claims(claims: Iterable[str]) -> str:
    """Return claims as one value of a header."""
    return ",".join(claims)


def decode_claims(text: str) -> tuple[str, ...]:
    """Return the claims of such a value; what is none is left out."""
    return tuple(filter(_is_id, text.split(",")))[-CLAIMS_MAX:]


def _is_id(text: str) -> bool:
    is_word = text.isascii() and text.replace("_", "").replace("-", "").isalnum()
    return is_word and len(text) <= _ID_CHARS_MAX
