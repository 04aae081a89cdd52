"""Guests over a TLS websocket: the shim's own client against the broker, and clients that err."""

import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio_websocket
import trustme

from palace.broker import guests
from palace.client.guest.fallbacks import Fallbacks
from palace.client.guest.tunnel import Tunnel, TunnelProblem
from palace.client.guest.wss import carry_websocket
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.protocol.broker_record import BrokerRecord, decode_broker_record
from palace.protocol.errors import ConfigError
from palace.protocol.lifecycle import Reason
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from palace.transport import websocket
from tests.support.brokers.owner import Running, Shim, open_broker, until
from tests.support.engines.gated import GatedEngine
from tests.support.machines.sshd import free_port


@pytest.fixture
def root(short_dir: Path) -> Path:
    return short_dir / "palace"


@pytest.fixture
def listen() -> str:
    return f"127.0.0.1:{free_port()}"


def record_of(root: Path) -> BrokerRecord:
    record = decode_broker_record((root / "broker.json").read_bytes())
    assert record is not None
    return record


@attrs.define(eq=False)
class Guest:
    """A shim's side: its lines, and the route that carries them."""

    shim: Shim
    tunnel: Tunnel


def set_out(running: Running, **instead: str) -> Guest:
    """Set out for the broker as the record says, or with something else instead."""
    record = record_of(Path(running.state.services.ownership.paths.root))
    url = next(url for url in record.endpoints if url.startswith("wss://"))
    way = {"url": url, "token": record.token, "fingerprint": record.fingerprint} | instead
    tunnel = Tunnel(lambda near: carry_websocket(near, **way))
    shim = Shim(tunnel.sock, running.nursery)
    running.shims.append(shim)
    return Guest(shim, tunnel)


async def failure(guest: Guest) -> str:
    """Return why a route led nowhere."""
    assert await guest.shim.line() == b""
    await until(lambda: not guest.tunnel.alive)
    assert guest.tunnel.problem is not None
    return guest.tunnel.problem.text


async def test_a_guest_is_served_like_a_neighbour(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen) as running:
        guest = set_out(running)
        welcome = await guest.shim.welcome("guest")
        neighbour = await running.session("neighbour")
        guest.shim.call("add_drawer", 1, name="by guest")
        neighbour.call("add_drawer", 1, name="by neighbour")
        replies = [await guest.shim.reply(), await neighbour.reply()]

        assert welcome["palace_id"] == running.state.services.ownership.palace_id
        assert [(ordinal, reply["id"]) for ordinal, reply in replies] == [(0, 1), (0, 1)]
        assert sorted(running.engine.written) == ["by guest", "by neighbour"]


@pytest.mark.parametrize("size", [1, 70_000, 5_000_000])
async def test_lines_of_any_size_pass_both_ways(root: Path, listen: str, size: int) -> None:
    async with open_broker(root, listen=listen) as running:
        guest = set_out(running)
        await guest.shim.welcome()
        guest.shim.call("add_drawer", 1, name="x" * size)
        ordinal, reply = await guest.shim.reply()

        assert ordinal == 0
        assert json.loads(reply["result"]["content"][0]["text"]) == {"name": "x" * size}


async def test_a_guest_that_has_said_its_last_word_gets_its_replies(
    root: Path, listen: str
) -> None:
    async with open_broker(root, listen=listen) as running:
        guest = set_out(running)
        await guest.shim.welcome()
        guest.shim.call("add_drawer", 1, name="late", hold="gate")
        await until(lambda: running.engine.begun)
        guest.tunnel.sock.shutdown(socket.SHUT_WR)
        await trio.sleep(0.1)
        running.engine.gate("gate").set()

        assert (await guest.shim.reply())[0] == 0
        assert await guest.shim.line() == b""
        await until(lambda: not guest.tunnel.alive and not running.state.sessions)


async def test_a_guest_that_hangs_up_leaves_nothing_behind(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen) as running:
        guest = set_out(running)
        await guest.shim.welcome()
        guest.shim.close()

        await until(lambda: not guest.tunnel.alive)
        await until(lambda: not running.state.sessions and not running.state.connections.open)


async def test_a_second_connection_takes_the_session_over(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen) as running:
        first = set_out(running)
        await first.shim.welcome("same")
        second = set_out(running)
        await second.shim.welcome("same")

        assert await first.shim.line() == b""
        second.shim.call("status", 1)
        assert (await second.shim.reply())[0] == 0


async def test_guests_are_told_goodbye_and_the_address_is_free(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen) as running:
        guest = set_out(running)
        await guest.shim.welcome()
        running.state.leaving.stop(Reason.UPGRADE)

        kind, fields = await guest.shim.header()
        assert (kind, fields["reason"]) == (wire.GOODBYE, "upgrade")
        await running.ended.wait()
    host, _, port = listen.partition(":")
    with socket.socket() as sock:
        sock.bind((host, int(port)))


# Who is not let in.


async def test_a_wrong_token_is_refused_before_anything_is_said(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen) as running:
        for token in ("", "a\nb", "wrong", record_of(root).token[:-1]):
            text = await failure(set_out(running, token=token))
            assert "token" in text

        assert running.state.telemetry.counters.connections == 0
        assert not running.state.sessions


async def test_who_guesses_is_refused_and_keeps_nobody_out_who_has_the_token(
    root: Path, listen: str
) -> None:
    async with open_broker(root, listen=listen) as running:
        for _ in range(websocket.TokenGate.FAILURES_MAX + 2):
            assert "refused the token" in await failure(set_out(running, token="guess"))

        guest = set_out(running)
        await guest.shim.welcome()
        guest.shim.call("status", 1)
        assert (await guest.shim.reply())[0] == 0


def lent(root: Path, elsewhere: Path, token: str, environ: dict[str, str]) -> Site:
    """Return a palace as a guest sees it whose mount shows an earlier token."""
    elsewhere.mkdir()
    record = json.loads((root / "broker.json").read_text()) | {"token": token}
    (elsewhere / "broker.json").write_text(json.dumps(record))
    return Site(Kernel(), Paths(str(elsewhere)), ShimEnvironment(environ))


async def asked(fallbacks: Fallbacks) -> TunnelProblem | None:
    """Take the first way, and say nothing; return why it led nowhere."""
    tunnel = fallbacks.open(fallbacks.candidates()[0])
    await trio.to_thread.run_sync(tunnel.join, 30)
    tunnel.sock.close()
    return tunnel.problem


async def test_a_token_that_was_refused_is_not_shown_to_the_same_broker_again(
    root: Path, listen: str, tmp_path: Path
) -> None:
    mount = tmp_path / "mount"
    async with open_broker(root, listen=listen) as running:
        fallbacks = Fallbacks(lent(root, mount, "of yesterday", {"HOME": str(tmp_path)}))
        first = await asked(fallbacks)
        renewed = (root / "broker.json").read_bytes()
        running.state.leaving.stop(Reason.STOP)
        await running.ended.wait()
        second = await asked(fallbacks)  # which would find that nothing listens there
        (mount / "broker.json").write_bytes(renewed)
        third = await asked(fallbacks)

    for problem in (first, second):
        assert problem is not None
        assert f"refused the token in {mount}/broker.json" in problem.text
        assert not problem.final, "a mount may show the record late"
    assert third is not None
    assert "nothing listens" in third.text


async def test_a_token_of_the_users_that_was_refused_ends_the_attempt(
    root: Path, listen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("of yesterday\n")
    environ = {
        "HOME": str(tmp_path),
        "PALACE_TOKEN_FILE": str(tmp_path / "token"),
        "MEMPALACE_BROKER": f"wss://{listen}",  # it is shown to no other
    }
    _, settings = own_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with open_broker(root, listen=listen, **settings):
        fallbacks = Fallbacks(lent(root, tmp_path / "mount", "any", environ))
        problem = await asked(fallbacks)

    assert problem is not None
    assert problem.final
    assert f"refused the token in PALACE_TOKEN_FILE={tmp_path}/token" in problem.text
    assert "copy `token` out of broker.json" in problem.text


async def test_another_certificate_is_not_the_brokers(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen) as running:
        pin = record_of(root).fingerprint
        text = await failure(set_out(running, fingerprint=pin[:-1] + "0" * (pin[-1] != "0") + "1"))
        assert "not the broker of this palace" in text
        assert "not to be trusted" in await failure(set_out(running, fingerprint=""))
        assert running.state.telemetry.counters.connections == 0


def own_certificate(directory: Path, **more: Any) -> tuple[trustme.CA, dict[str, Any]]:
    """Return an authority and the settings of a broker that it vouches for."""
    authority = trustme.CA()
    leaf = authority.create_child_ca().issue_cert("localhost", "127.0.0.1", **more)
    leaf.private_key_pem.write_to_path(str(directory / "key.pem"))
    assert len(leaf.cert_chain_pems) > 1, "a chain, of which the first is the broker's own"
    for number, blob in enumerate(leaf.cert_chain_pems):
        blob.write_to_path(str(directory / "chain.pem"), append=bool(number))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    return authority, {
        "certificate": str(directory / "chain.pem"),
        "private_key": str(directory / "key.pem"),
    }


async def test_a_certificate_of_the_users_own_is_shown_and_vouched_for(
    root: Path, listen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, settings = own_certificate(tmp_path)
    async with open_broker(root, listen=listen, **settings) as running:
        await set_out(running).shim.welcome("pinned")
        assert "not to be trusted" in await failure(set_out(running, fingerprint=""))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        await set_out(running, fingerprint="").shim.welcome("vouched for")


async def test_an_expired_certificate_is_trusted_by_its_pin_alone(
    root: Path, listen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime

    _, settings = own_certificate(tmp_path, not_after=datetime(2021, 1, 1, tzinfo=UTC))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with open_broker(root, listen=listen, **settings) as running:
        text = await failure(set_out(running, fingerprint=""))
        assert "expired" in text
        await set_out(running).shim.welcome()


def test_half_a_pair_of_files_is_refused(tmp_path: Path) -> None:
    from palace.broker.certificate import make_identity
    from palace.kernel.kernel import Kernel
    from palace.settings.config import Config

    config = partial(Config, graph="/g", config_dir="/c")
    _, settings = own_certificate(tmp_path)
    with pytest.raises(ConfigError, match="name both"):
        make_identity(config(certificate=settings["certificate"]), Kernel())
    with pytest.raises(ConfigError, match="belong together"):
        make_identity(config(certificate="/none", private_key="/none"), Kernel())
    swapped = config(certificate=settings["private_key"], private_key=settings["certificate"])
    with pytest.raises(ConfigError, match="belong together"):
        make_identity(swapped, Kernel())


# Clients that err.


async def dial(listen: str) -> trio.SocketStream:
    host, _, port = listen.partition(":")
    return await trio.open_tcp_stream(host, int(port))


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def ended(stream: trio.abc.Stream) -> None:
    """Return when the broker has hung up, and hang up."""
    with trio.fail_after(10):
        async with stream:
            try:
                while await stream.receive_some(100):
                    pass
            except trio.BrokenResourceError:
                pass


async def test_a_client_without_tls_is_cut_off(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen) as running:
        stream = await dial(listen)
        await stream.send_all(b"GET /palace HTTP/1.1\r\nHost: x\r\n\r\n")
        await ended(stream)

        await set_out(running).shim.welcome()


@asynccontextmanager
async def open_client(
    listen: str, path: str, token: str
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """Connect with a common client of websockets, and leave no socket behind, whatever happens."""
    tls = trio.SSLStream(await dial(listen), trusting(), server_hostname="x")
    async with trio.open_nursery() as nursery:
        try:
            yield await trio_websocket.wrap_client_stream(
                nursery, tls, "x", path, extra_headers=[(b"authorization", token.encode())]
            )
        finally:
            nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(tls)


async def test_another_path_is_not_found(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen):
        with pytest.RaisesGroup(trio_websocket.ConnectionRejected) as caught:
            async with open_client(listen, "/elsewhere", "Bearer x"):
                raise AssertionError("it was let in")
        (rejected,) = caught.value.exceptions
        assert isinstance(rejected, trio_websocket.ConnectionRejected)
        assert rejected.status_code == 404


@pytest.mark.parametrize("tls", [False, True])
async def test_a_slow_handshake_is_given_up(
    root: Path, listen: str, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_S", 0.3)
    async with open_broker(root, listen=listen) as running:
        stream: Any = await dial(listen)
        if tls:
            stream = trio.SSLStream(stream, trusting(), server_hostname="x", https_compatible=True)
            await stream.send_all(b"GET /palace HTTP/1.1\r\n")
        await ended(stream)
        await set_out(running).shim.welcome()


async def test_a_message_that_is_too_large_ends_its_connection_alone(
    root: Path, listen: str
) -> None:
    async with open_broker(root, listen=listen) as running:
        other = set_out(running)
        await other.shim.welcome("other")
        token = f"Bearer {record_of(root).token}"
        async with open_client(listen, wire.WEBSOCKET_PATH, token) as connection:
            await connection.send_message(
                wire.encode_header(wire.HELLO, {"session": "big", "next": "0"})
            )
            await connection.get_message()
            await connection.send_message(b"x" * (websocket.MESSAGE_BYTES_MAX + 1))
            with pytest.raises(trio_websocket.ConnectionClosed):
                await connection.get_message()
        other.shim.call("status", 1)
        assert (await other.shim.reply())[0] == 0


async def test_a_guest_asks_for_tools_not_for_the_broker(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen) as running:
        guest = set_out(running)
        guest.shim.stream.send_soon(wire.encode_header(wire.CONTROL, {"ask": "stop"}))
        kind, fields = await guest.shim.header()

        assert (kind, fields["code"]) == (wire.REFUSED, "wire")
        assert running.state.lifecycle.drain is None


async def test_who_has_no_token_keeps_nobody_out_who_has_it(
    root: Path, listen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "STRANGERS_MAX", 3)
    async with open_broker(root, listen=listen) as running:
        silent = [await dial(listen) for _ in range(9)]

        await set_out(running).shim.welcome()

        (places,) = running.state.telemetry.budgets_named("guest_strangers")
        assert places.held <= 3
        assert places.shed >= 6
        assert places.last_shed == "127.0.0.1"
        for stream in silent:
            await stream.aclose()


async def test_two_hundred_guests_at_once(root: Path, listen: str) -> None:
    async with open_broker(root, GatedEngine(), listen=listen, sessions_max=250) as running:
        running.state.connections.budget.limit = 250
        everybody: list[Guest] = []
        for start in range(0, 200, 20):
            some = [set_out(running) for _ in range(20)]
            for number, guest in enumerate(some, start):
                await guest.shim.welcome(f"s{number}")
            everybody += some
        for number, guest in enumerate(everybody):
            guest.shim.call("add_drawer", 1, name=f"of {number}")
        for guest in everybody:
            assert (await guest.shim.reply())[0] == 0

        assert sorted(running.engine.written) == sorted(f"of {n}" for n in range(200))


# The address.


async def test_an_address_that_is_taken_is_tried_again(
    root: Path, listen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palace.broker import broker

    monkeypatch.setattr(broker, "LISTEN_AGAIN_S", 0.05)
    host, _, port = listen.partition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        async with open_broker(root, listen=listen) as running:
            neighbour = await running.session()
            assert record_of(root).endpoints == [f"unix:{root}/broker.sock"]
            assert "can't be served" in running.state.telemetry.errors.last
            taken.close()
            await until(lambda: len(record_of(root).endpoints) == 2)
            await set_out(running).shim.welcome("guest")
            neighbour.call("status", 1)
            assert (await neighbour.reply())[0] == 0


async def test_guests_are_told_another_address_than_is_listened_on(root: Path, listen: str) -> None:
    async with open_broker(root, listen=listen, advertise=("host.docker.internal:7", listen)):
        record = record_of(root)

    assert record.endpoints[1:] == ["wss://host.docker.internal:7", f"wss://{listen}"]
    assert len(record.token) >= 32
    assert len(record.fingerprint) == 64


async def test_without_guests_there_is_no_token(root: Path) -> None:
    async with open_broker(root):
        record = record_of(root)

    assert (record.token, record.fingerprint) == ("", "")
    assert record.endpoints == [f"unix:{root}/broker.sock"]


@pytest.mark.parametrize("host", ["0", "[::]"])
async def test_a_name_of_a_wildcard_is_not_listened_at(root: Path, host: str) -> None:
    """What a name stands for shows only when it is bound."""
    where = f"{host}:{free_port()}"
    async with open_broker(root, listen=where) as running:
        assert "reached from every network" in running.state.telemetry.errors.last
        assert record_of(root).endpoints == [f"unix:{root}/broker.sock"]
    async with open_broker(root, listen=where, listen_anywhere=True):
        assert len(record_of(root).endpoints) == 2
