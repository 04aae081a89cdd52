"""The memory contract over TLS: who may come in from elsewhere, and by what."""

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.contract.test_doors import bearer, owners_token, run
from tests.contract.test_plugins import Office, found, told
from tests.support.brokers.http import serverinfo_of
from tests.support.calls.contract import ContractClient
from tests.support.loads.light import storm_site
from tests.support.machines.needs import need_command
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import Serving, settle, status_of
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = pytest.mark.process

HOST = "127.0.0.1"


@attrs.frozen
class Door:
    """A palace that serves the contract over TLS at a port, with the certificate to trust."""

    site: Site
    port: int
    certificate: str
    plugin: str
    coder: str

    def connection(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self.certificate)
        return http.client.HTTPSConnection(HOST, self.port, context=context, timeout=30)

    def ask(
        self, method: str, path: str, token: str = "", body: object = None, **more: str
    ) -> tuple[int, dict[str, object]]:
        connection = self.connection()
        try:
            headers = (bearer(token) if token else {}) | {
                name.replace("_", "-"): value for name, value in more.items()
            }
            raw = None if body is None else json.dumps(body)
            connection.request(method, path, body=raw, headers=headers)
            answer = connection.getresponse()
            raw_answer = answer.read()
            return answer.status, json.loads(raw_answer) if raw_answer else {}
        finally:
            connection.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    root = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    try:
        site, port = storm_site(root), free_port()
        settle(site, f'serve_http = "{HOST}:{port}"')
        with Serving(site):
            run(site, "workspace", "add", "lead")
            run(site, "workspace", "add", "coder", "--parent", "lead")
            plugin = run(site, "token", "new", "plugin").strip()
            coder = run(site, "token", "new", "workspace:coder").strip()
            wait_until(lambda: status_of(site)["http"]["tls"], what="it is served over TLS")
            certificate = status_of(site)["http"]["certificate"]
            yield Door(site, port, certificate, plugin, coder)
    finally:
        end_brokers(root)
        shutil.rmtree(root)


def test_who_has_a_token_of_its_own_is_served(door: Door) -> None:
    assert door.ask("GET", "/v1/health", door.plugin)[0] == 200
    made = door.ask("PUT", "/v1/namespaces/team:a", door.plugin, {"kind": "team"})
    assert made[0] == 200
    body = {"content": "from elsewhere", "kind": "fact", "source": "agent"}
    path = "/v1/namespaces/workspace:coder/memories"
    assert door.ask("POST", path, door.coder, body)[0] == 201
    search = {"namespaces": ["workspace:coder", "team:a"]}
    status, answered = door.ask("POST", "/v1/search", door.coder, search)
    assert status == 200
    assert [one["content"] for one in answered["memories"]] == ["from elsewhere"]  # type: ignore[attr-defined]
    assert door.ask("POST", "/v1/search", door.plugin, search)[1] == {"memories": []}


def test_the_palaces_token_is_refused_and_so_is_everything_else(door: Door) -> None:
    owner = owners_token(door.site)
    for token in (owner, "", "f" * 64, door.plugin[:-1], door.plugin.upper()):
        assert door.ask("GET", "/v1/health", token)[0] == 401, token
    assert door.ask("GET", "/v1/health", door.plugin, origin="https://a.example")[0] == 403
    for path in ("/mcp", "/metrics", "/healthz", "/", "/v1", "/V1/health"):
        for token in (owner, door.plugin):
            assert door.ask("GET", path, token)[0] == 404, path


def test_a_token_that_is_revoked_is_refused_at_once(door: Door) -> None:
    token = run(door.site, "token", "new", "plugin").strip()
    assert door.ask("GET", "/v1/health", token)[0] == 200
    [named] = [
        line.split()[0]
        for line in run(door.site, "token", "list").splitlines()
        if line.startswith(sha256_start(token))
    ]
    run(door.site, "token", "revoke", named)
    assert door.ask("GET", "/v1/health", token)[0] == 401


def sha256_start(token: str) -> str:
    from palace.protocol.workspaces import DIGITS_SHOWN, digest_of

    return digest_of(token)[:DIGITS_SHOWN]


def test_it_is_tls_of_this_host_and_nothing_older(door: Door) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(
            socket.create_connection((HOST, door.port)), server_hostname=HOST
        )
    trusting = ssl.create_default_context(cafile=door.certificate)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        trusting.wrap_socket(
            socket.create_connection((HOST, door.port)), server_hostname="palace.example"
        )
    address = (HOST, door.port)
    with trusting.wrap_socket(socket.create_connection(address), server_hostname=HOST) as right:
        assert right.version() == "TLSv1.3"
    old = ssl.create_default_context(cafile=door.certificate)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        old.wrap_socket(socket.create_connection((HOST, door.port)), server_hostname=HOST)
    with socket.create_connection((HOST, door.port)) as plain:
        plain.settimeout(30)
        plain.sendall(b"GET /v1/health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/")
    assert Path(door.certificate).read_text().count("PRIVATE KEY") == 0
    assert Path(door.certificate).with_suffix(".pem").stat().st_mode & 0o077 == 0


def test_strangers_who_say_nothing_or_half_keep_nobody_out(door: Door) -> None:
    silent = [socket.create_connection((HOST, door.port)) for _ in range(60)]
    halves = []
    try:
        for _ in range(20):
            sock = socket.create_connection((HOST, door.port))
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            halves.append(sock)
        began_s = time.monotonic()
        assert door.ask("GET", "/v1/health", door.plugin)[0] == 200
        assert time.monotonic() - began_s < 10
        port = json.loads(serverinfo_of(door.site.home).read_text())["port"]
        with ContractClient(f"{HOST}:{port}", bearer(owners_token(door.site))) as near:
            assert near.health().status == 200
    finally:
        for sock in (*silent, *halves):
            sock.close()


def test_curl_comes_by_it(door: Door) -> None:
    need_command("curl")
    shown, url = f"Authorization: Bearer {door.plugin}", f"https://{HOST}:{door.port}/v1/health"
    done = subprocess.run(
        ["curl", "-sS", "--cacert", door.certificate, "-H", shown, url],
        capture_output=True,
        check=False,
    )
    assert json.loads(done.stdout)["version"] == "1.0.0", done.stderr


def test_a_palace_elsewhere_comes_by_it(door: Door, short_dir: Path) -> None:
    site, token = storm_site(short_dir), short_dir / "token"
    token.write_text(door.plugin)
    token.chmod(0o600)
    settle(
        site,
        f'memory_plugin = "https://{HOST}:{door.port}"\nmemory_cutover = true\n'
        f'memory_plugin_token_file = "{token}"\nmemory_plugin_certificate = "{door.certificate}"',
    )
    with Serving(site):
        (site.home / "lead").mkdir()
        run(site, "workspace", "add", "lead", "--cwd", str(site.home / "lead"))
        with Office(site, "").agent("lead") as lead:
            told(lead.call("palace_commit_memory", content="far", namespace="team:lead"))
            assert found(lead) == ["far"]
    end_brokers(short_dir)
