"""A guest's directory: the address of a palace's broker and a token, and nothing of the palace.

`palace expose docker` makes one on the palace's machine; mounted into a container, read-only, it is
all that a shim there needs.  A directory with guest.json and without a palace's identity is one.

Standard library only, and light: shims that failed to dial load this.
"""

from palace.kernel.kernel import Kernel
from palace.settings.paths import Paths

SCHEMA = 1
GUEST_BYTES_MAX = 65_536
NAME = "guest.json"
_TEXTS = ("name", "palace", "palace_id", "token", "fingerprint")


class GuestFile:
    """What guest.json says: `endpoints` are URLs, `fingerprint` is of the certificate there.

    `palace` is the palace's name on its own machine, for messages.
    """

    __slots__ = ("endpoints", *_TEXTS)

    endpoints: "list[str]"
    name: str
    palace: str
    palace_id: str
    token: str
    fingerprint: str

    def __init__(self, endpoints: "list[str]", **texts: str) -> None:
        self.endpoints = endpoints
        for name in _TEXTS:
            setattr(self, name, texts[name])

    def encode(self) -> bytes:
        import json

        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"v": SCHEMA} | fields, indent=1).encode() + b"\n"


def decode_guest_file(data: "bytes | None") -> "GuestFile | None":
    """Return what a guest.json says, None where it is missing or can't be understood."""
    from palace.protocol.broker_record import ENDPOINTS_MAX
    from palace.protocol.decoding import decode_json, is_word

    try:
        found = decode_json(data or b"")
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("v") != SCHEMA:
        return None
    endpoints = found.get("endpoints")
    texts = {name: found.get(name) for name in _TEXTS}
    if not isinstance(endpoints, list) or not all(map(is_word, [*endpoints, *texts.values()])):
        return None
    urls = [url for url in endpoints[:ENDPOINTS_MAX] if url.startswith("wss://")]
    return GuestFile(urls, **{name: str(text) for name, text in texts.items()})


def read_guest_file(paths: Paths, kernel: Kernel) -> "GuestFile | None":
    """Return what a guest's directory says, None where the directory is none.

    A palace's own directory is never one, whatever somebody has written into it.
    """
    if kernel.read_hint(paths.palace_id, 200) or kernel.file_id(paths.store) is not None:
        return None
    return decode_guest_file(kernel.read_hint(guest_path(paths), GUEST_BYTES_MAX))


def guest_path(paths: Paths) -> str:
    return f"{paths.root}/{NAME}"
