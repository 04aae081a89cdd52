"""A palace's part in stock's mesh: its peers, which of them count, and the token that peers show.

peers.json lies in the palace, where stock has it and where others may write (decision 29).  So what
it names is asked only if this user has agreed to that address, and what was agreed to lies in the
user's state directory, with the token.  What peers.json named when a palace was first served counts
as agreed: that palace was in a mesh before.  Whatever comes later waits for its user.
"""

import json
import os
from collections.abc import Mapping, Sequence

import attrs

from palace.kernel.causes import cause_text
from palace.kernel.kernel import Kernel
from palace.ownership.directory import prepare_private
from palace.protocol.decoding import decode_json, is_number, is_word
from palace.protocol.errors import ConfigError
from palace.protocol.mesh import MeshPeer, read_peers
from palace.settings.paths import path_key, state_dir

SCHEMA = 1
PEERS = "peers.json"
FILE_BYTES_MAX = 1 << 20
URLS_MAX = 1024
STOCKS_PORT = 8765  # where `mempalace serve` listens unless it is told otherwise


@attrs.frozen(kw_only=True)
class MeshFile:
    """What is kept of a palace's mesh; `agreed` is None before that was decided.

    `port` is where peers find this palace, 0 for nowhere yet.
    """

    token: str = attrs.field(default="", repr=False)
    agreed: tuple[str, ...] | None = None
    port: int = 0

    def counts(self, peer: MeshPeer) -> bool:
        """Tell whether this user has agreed to a peer's address."""
        return peer.url in (self.agreed or ())


def mesh_path(root: str, environ: Mapping[str, str]) -> str:
    """Return where a palace's part in the mesh is kept on this machine."""
    return f"{state_dir(environ)}/mesh/{path_key(root)}.json"


def peers_path(root: str) -> str:
    return f"{root}/{PEERS}"


def peers_of(root: str, kernel: Kernel) -> tuple[MeshPeer, ...] | None:
    """Return the peers that a palace names, None where it has no peers.json; raises ConfigError."""
    path = peers_path(root)
    try:
        data = kernel.read_file(path, FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{cause_text(error)}") from None
    if data is None:
        return None
    try:
        if len(data) > FILE_BYTES_MAX:
            raise ValueError("it is too long")
        return read_peers(decode_json(data))
    except ValueError as error:
        text = f"{path} can't be understood: {error}. Nobody is pulled from until it is corrected."
        raise ConfigError(text) from None


def read_mesh(path: str, palace_id: str, kernel: Kernel) -> MeshFile:
    """Return what is kept of a palace's mesh; where it is of another palace, nobody is agreed to.

    The identity lies in the palace, so that whoever writes there could change it.
    Raises ConfigError for a file that can't be understood, or that is not this user's.
    """
    try:
        data = kernel.read_file(path, FILE_BYTES_MAX)
        if data is None:
            return MeshFile()
        if not kernel.is_own_file(path):
            raise ValueError("it is another user's")
        found = decode_json(data)
        if found["v"] != SCHEMA:
            raise ValueError("another version of palace wrote it")
        if found["palace_id"] != palace_id:
            return MeshFile(agreed=())
        token, agreed, port = found["token"], found["agreed"], found["port"]
        if not is_word(token) or not is_number(port, 65_535):
            raise ValueError("its token or its port is none")
        if agreed is not None and not all(map(is_word, agreed[:URLS_MAX])):
            raise ValueError("its addresses are none")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} can't be used ({_words(error, path)}), so this palace takes no part in the "
            "mesh. Remove it, and agree to the peers again: palace mesh --trust"
        ) from None
    urls = None if agreed is None else tuple(agreed[:URLS_MAX])
    return MeshFile(token=token, agreed=urls, port=port)


def _words(error: Exception, path: str) -> str:
    """Say what is wrong with a file that holds a token: what it holds is not quoted."""
    if isinstance(error, OSError):
        return cause_text(error).removeprefix(f"{path}: ").rstrip(".")
    return f"{type(error).__name__}: {error!s:.100}"


def keep_mesh(path: str, palace_id: str, mine: MeshFile, kernel: Kernel) -> MeshFile:
    """Keep what an owner has found, beside what the user has written meanwhile; return that.

    Nothing is written over a file that can't be read: what was agreed to may be in it.
    Raises ConfigError for such a one, OSError and UnsafePalace.
    """
    there = read_mesh(path, palace_id, kernel)
    wanted = merged(there, mine)
    if wanted != there:
        write_mesh(path, palace_id, wanted, kernel)
    return wanted


def merged(there: MeshFile, mine: MeshFile) -> MeshFile:
    """Return what is to be kept: of what its user decides, what is there counts."""
    return MeshFile(
        token=there.token or mine.token,
        agreed=mine.agreed if there.agreed is None else there.agreed,
        port=mine.port or there.port,
    )


def write_mesh(path: str, palace_id: str, mesh: MeshFile, kernel: Kernel) -> None:
    """Keep it, for this user alone; raises OSError and UnsafePalace."""
    directory = os.path.dirname(path)
    os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
    prepare_private(
        directory, kernel, called="The mesh's directory", remedy="Correct or remove it."
    )
    kept = {"v": SCHEMA, "palace_id": palace_id, **attrs.asdict(mesh)}
    kernel.write_durable(path, json.dumps(kept, indent=1).encode() + b"\n")


def agreeing(mesh: MeshFile, peers: Sequence[MeshPeer]) -> MeshFile:
    """Return it with the user's agreement to these peers, and to no others."""
    return attrs.evolve(mesh, agreed=tuple(sorted({peer.url for peer in peers})[:URLS_MAX]))


def with_token(mesh: MeshFile, stocks: str, kernel: Kernel) -> MeshFile:
    """Return it with a token; `stocks` is what the file of stock's server's holds, "" for nothing.

    What peers were given of stock's server goes on opening this palace.  A broker's own token, left
    there by a broker, is of 64 hexadecimal digits and was no peer's.
    """
    if mesh.token:
        return mesh
    is_brokers = len(stocks) == 64 and not set(stocks) - set("0123456789abcdef")
    taken = stocks if stocks and not is_brokers and is_word(stocks) else kernel.token(32)
    return attrs.evolve(mesh, token=taken)
