"""A token that the user keeps goes to the broker that the user has named, and nowhere else."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from palace.broker.certificate import Identity, make_identity
from palace.client.guest.fallbacks import Candidate, Fallbacks
from palace.client.guest.tunnel import TunnelProblem
from palace.kernel.kernel import Kernel
from palace.settings.config import Config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from tests.support.brokers.records import write_record

OWN = "OWN-TOKEN" * 7
RECORDS = "x" * 64


class Impostor:
    """Whoever listens at an address, with a certificate of its own; `heard` is what it was told."""

    def __init__(self, identity: Identity) -> None:
        self.fingerprint = identity.fingerprint
        self.heard: list[bytes] = []
        self._context = identity.context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"wss://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(sock, server_side=True) as tls:
                    self.heard.append(tls.recv(4096))
            except (OSError, ssl.SSLError):
                sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    config = Config(graph="/g", config_dir=str(tmp_path))
    found = Impostor(make_identity(config, Kernel()))
    yield found
    found.close()


def published(impostor: Impostor, root: Path, token: str = RECORDS) -> Paths:
    paths = Paths(str(root / "palace"))
    endpoints = [impostor.url] if token else []
    write_record(paths, token=token, endpoints=endpoints, fingerprint=impostor.fingerprint)
    return paths


def gone(fallbacks: Fallbacks, url: str) -> TunnelProblem:
    """Return why a guest that set out for an address came nowhere."""
    tunnel = fallbacks.open(Candidate(url, 5))
    tunnel.sock.settimeout(20)
    while tunnel.sock.recv(1):
        pass
    tunnel.sock.close()
    tunnel.join(20)
    assert tunnel.problem is not None
    return tunnel.problem


def told(impostor: Impostor, root: Path, **environ: str) -> bytes:
    """Return what the impostor hears of a guest to whose palace it has written a record."""
    (root / "palace").mkdir()
    (root / "token").write_text(OWN)
    paths = published(impostor, root)
    environment = ShimEnvironment(environ | {"HOME": str(root)})
    gone(Fallbacks(Site(Kernel(), paths, environment)), impostor.url)
    return b"".join(impostor.heard)


def test_a_record_names_no_certificate_for_the_users_own_token(
    impostor: Impostor, tmp_path: Path
) -> None:
    heard = told(
        impostor,
        tmp_path,
        MEMPALACE_BROKER=impostor.url,
        PALACE_TOKEN_FILE=str(tmp_path / "token"),
    )

    assert OWN.encode() not in heard


def test_a_record_names_no_address_for_the_users_own_token(
    impostor: Impostor, tmp_path: Path
) -> None:
    heard = told(impostor, tmp_path, PALACE_TOKEN_FILE=str(tmp_path / "token"))

    assert OWN.encode() not in heard
    assert RECORDS.encode() in heard  # its own token, which it has made


def test_a_records_token_goes_to_the_certificate_that_it_names(
    impostor: Impostor, tmp_path: Path
) -> None:
    assert RECORDS.encode() in told(impostor, tmp_path)


@pytest.mark.parametrize("token", ["", "none"])
def test_a_record_that_was_there_is_waited_for_and_one_that_never_was_is_not(
    impostor: Impostor, tmp_path: Path, token: str
) -> None:
    """An owner that leaves takes its record along, and the next one's begins without a token."""
    (tmp_path / "palace").mkdir()
    paths = Paths(str(tmp_path / "palace"))
    environment = ShimEnvironment({"MEMPALACE_BROKER": impostor.url, "HOME": str(tmp_path)})
    fallbacks = Fallbacks(Site(Kernel(), paths, environment))

    never = gone(fallbacks, impostor.url)
    published(impostor, tmp_path)
    gone(fallbacks, impostor.url)
    Path(paths.record).unlink()
    if not token:
        published(impostor, tmp_path, "")
    left = gone(fallbacks, impostor.url)

    assert (never.name, never.final) == ("config", True)
    assert (left.name, left.final) == ("broker_unreachable", False)
    assert paths.record in left.text
