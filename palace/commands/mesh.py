"""`palace mesh`: whom a palace agrees upon events with, and the token that those are given."""

from collections.abc import Iterator, Sequence

from palace.kernel.kernel import Kernel
from palace.kernel.output import one_line
from palace.ownership.mesh_file import (
    MeshFile,
    agreeing,
    mesh_path,
    peers_of,
    peers_path,
    read_mesh,
    with_token,
    write_mesh,
)
from palace.protocol.errors import ConfigError
from palace.protocol.mesh import MeshPeer
from palace.protocol.wire import identity_of
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

NO_PEERS = (
    "This palace has no peers: {path} names none. mempalace's own documents say how to write it."
)


def mesh_text(paths: Paths, environment: ShimEnvironment) -> str:
    """Return the peers that a palace names, and which of them count; raises ConfigError."""
    kernel = Kernel()
    peers = peers_of(paths.root, kernel) or ()
    kept = read_mesh(mesh_path(paths.root, environment.all), _id_of(paths, kernel), kernel)
    lines = [*_lines(peers, kept)] or [NO_PEERS.format(path=peers_path(paths.root))]
    if kept.token:
        path = mesh_path(paths.root, environment.all)
        lines.append(f"Peers show the token in {path}, and ask this palace at port {kept.port}.")
    lines.append("How each of them is: palace status")
    return "\n".join(map(one_line, lines))


def trust_peers(paths: Paths, environment: ShimEnvironment) -> str:
    """Agree to the addresses that peers.json names now, and to no others; return what was done.

    A running broker sees it by itself.  Raises ConfigError, OSError and UnsafePalace.
    """
    kernel = Kernel()
    palace_id = _id_of(paths, kernel)
    if not palace_id:
        raise ConfigError(
            f"{paths.root} was never served, so nobody has to be agreed to. Start it: palace start"
        )
    peers = peers_of(paths.root, kernel)
    if peers is None:
        raise ConfigError(NO_PEERS.format(path=peers_path(paths.root)))
    path = mesh_path(paths.root, environment.all)
    kept = read_mesh(path, palace_id, kernel)  # one that can't be read is the user's to remove
    kept = with_token(agreeing(kept, peers), "", kernel)
    write_mesh(path, palace_id, kept, kernel)
    return "\n".join(map(one_line, ["Agreed to:", *_lines(peers, kept)]))


def _lines(peers: Sequence[MeshPeer], kept: MeshFile) -> Iterator[str]:
    for peer in peers:
        known = "" if kept.counts(peer) else "  (not agreed to: palace mesh --trust)"
        yield f"  {peer.name}  {peer.url}{known}"


def _id_of(paths: Paths, kernel: Kernel) -> str:
    return identity_of(kernel.read_hint(paths.palace_id, 200)) or ""
