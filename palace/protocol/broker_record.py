"""broker.json: what an owner publishes about itself once it listens.

A record is a hint for clients and for people.  It never grants or revokes the right to open the
palace; torn, alien or outdated ones count as absent.

Rule for this file: pure, free of attrs (the shim reads a record when dialling failed).
"""

import json

from palace.protocol.decoding import decode_json, is_number, is_word

SCHEMA = 1
ENDPOINTS_MAX = 64
SOCKET_NAME = "broker.sock"
RECORD_BYTES_MAX = 65_536
_FIELDS = {
    "v": int,
    "epoch": int,
    "incarnation": str,
    "palace_id": str,
    "pid": int,
    "start_time": str,
    "boot_id": str,
    "pid_namespace": str,
    "host_id": str,
    "endpoints": list,
    "token": str,
    "version": str,
    "mode": str,
    "started_at": str,
    "fingerprint": str,
}
_YOUNGER = {"fingerprint": ""}  # fields that older versions of palace don't write


class BrokerRecord:
    """One published owner; `endpoints` are URLs, `started_at` is UTC and informational."""

    __slots__ = tuple(_FIELDS)

    v: int
    epoch: int
    incarnation: str
    palace_id: str
    pid: int
    start_time: str
    boot_id: str
    pid_namespace: str
    host_id: str
    endpoints: "list[str]"
    token: str
    version: str
    mode: str
    started_at: str
    fingerprint: str

    def __init__(self, **fields: object) -> None:
        for name in _FIELDS:
            setattr(self, name, fields[name] if name in fields else _YOUNGER[name])

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.to_dict().items() if name != "token"}
        return f"BrokerRecord({shown!r})"

    def to_dict(self) -> "dict[str, object]":
        return {name: getattr(self, name) for name in _FIELDS}

    def public_dict(self) -> "dict[str, object]":
        """Return the record without its token."""
        fields = self.to_dict()
        del fields["token"]
        return fields

    def encode(self) -> bytes:
        return json.dumps(self.to_dict(), indent=1).encode() + b"\n"


def decode_broker_record(data: "bytes | None") -> "BrokerRecord | None":
    """Return the record, or None where it is missing, torn, alien or of a later schema."""
    if not data or len(data) > RECORD_BYTES_MAX:
        return None
    try:
        fields = decode_json(data)
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.get("v") != SCHEMA:
        return None
    if any(
        not isinstance(fields.get(name, _YOUNGER.get(name)), kind) for name, kind in _FIELDS.items()
    ):
        return None
    numbers = ("v", "epoch", "pid")
    texts = [*fields["endpoints"], *(fields.get(n, "") for n in _FIELDS if _FIELDS[n] is str)]
    if len(fields["endpoints"]) > ENDPOINTS_MAX or not all(map(is_word, texts)):
        return None
    if not all(is_number(fields[name]) for name in numbers):
        return None
    fields["endpoints"] = [url for url in fields["endpoints"] if _is_endpoint(url)]
    return BrokerRecord(**{name: fields[name] for name in _FIELDS if name in fields})


def _is_endpoint(url: str) -> bool:
    """Tell whether a broker may listen there: a record must not have us dial any socket."""
    kind, _, place = url.partition(":")
    if kind != "unix":
        return kind == "wss" and place.isprintable()
    parts = place.split("/")
    is_plain = place.startswith("/") and not {"", ".", ".."} & set(parts[1:])
    return is_plain and parts[-1] == SOCKET_NAME and place.isprintable()


def version_tuple(version: str) -> "tuple[int, ...]":
    """Return the leading numbers of a version, for comparing: "1.2.3rc1" is (1, 2, 3)."""
    numbers = []
    for part in version.split(".")[:4]:
        digits = ""
        for char in part:
            if not char.isdigit():
                break
            digits += char
        if not digits:
            break
        numbers.append(int(digits[:9]))
    return tuple(numbers)
