"""Guests with tokens of their own: who is let in, what they may do, and how that ends."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from palace.broker import guests
from palace.broker.certificate import keep_identity
from palace.broker.reporting.status import status_of
from palace.client.guest.fallbacks import Fallbacks
from palace.client.guest.tunnel import Tunnel
from palace.kernel.kernel import Kernel
from palace.ownership.book import digest_of
from palace.ownership.guest_book import Guest, book_path, write_guests
from palace.ownership.guest_file import GuestFile, guest_path
from palace.settings.config import Config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.site import Site
from tests.support.brokers.owner import Running, Shim, open_broker, until
from tests.support.machines.sshd import free_port

KERNEL = Kernel()
TOKENS = {"writer": "1" * 64, "reader": "2" * 64}


def guest(name: str) -> Guest:
    return Guest(
        name=name, digest=digest_of(TOKENS[name]), read_only=name == "reader", since="2026"
    )


@attrs.frozen
class Exposed:
    """A broker that listens for guests, where it keeps their tokens, and where they have theirs."""

    running: Running
    listen: str
    directory: str
    mounts: Path

    def admit(self, *names: str) -> None:
        """Let these guests in, and no others."""
        identity = self.running.state.services.ownership.palace_id
        write_guests(self.directory, identity, {name: guest(name) for name in names}, KERNEL)

    def fallbacks(self, name: str) -> Fallbacks:
        """Return the ways of a guest that has its directory and nothing else."""
        state = self.running.state
        assert state.services.ownership.palace_id
        mount = Paths(str(self.mounts / name))
        Path(mount.root).mkdir(exist_ok=True)
        config = Config(graph="/g", config_dir="/c")
        made = GuestFile(
            [f"wss://{self.listen}"],
            name=name,
            palace=state.services.ownership.paths.root,
            palace_id=state.services.ownership.palace_id,
            token=TOKENS[name],
            fingerprint=keep_identity(config, KERNEL, self.directory),
        )
        Path(guest_path(mount)).write_bytes(made.encode())
        environ = {"HOME": str(self.mounts)}
        return Fallbacks(Site(KERNEL, mount, ShimEnvironment(environ)))

    def set_out(self, name: str) -> tuple[Shim, Tunnel]:
        fallbacks = self.fallbacks(name)
        tunnel = fallbacks.open(fallbacks.candidates()[0])
        shim = Shim(tunnel.sock, self.running.nursery)
        self.running.shims.append(shim)
        return shim, tunnel

    def sessions(self) -> Mapping[str, Any]:
        found = status_of(self.running.state)["sessions"]
        return {session["guest"]: session for session in found}


@asynccontextmanager
async def exposed(short_dir: Path) -> AsyncIterator[Exposed]:
    directory, mounts = short_dir / "guests", short_dir / "mounts"
    for path in (directory, mounts):
        path.mkdir(mode=0o700, exist_ok=True)
    keep_identity(Config(graph="/g", config_dir="/c"), KERNEL, str(directory))
    listen = f"127.0.0.1:{free_port()}"
    async with open_broker(short_dir / "palace", listen=listen, guests=str(directory)) as running:
        yield Exposed(running, listen, str(directory), mounts)


async def failure(shim: Shim, tunnel: Tunnel) -> str:
    assert await shim.line() == b""
    await until(lambda: not tunnel.alive)
    assert tunnel.problem is not None
    return tunnel.problem.text


async def test_a_guests_directory_is_all_that_it_needs(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "palace.broker")
    async with exposed(short_dir) as place:
        place.admit("writer")
        shim, _ = place.set_out("writer")
        await shim.welcome("w")
        shim.call("add_drawer", 1, name="by guest")
        assert (await shim.reply())[0] == 0

        assert place.running.engine.written == ["by guest"]
        assert place.sessions()["writer"]["read_only"] is False
    assert "guest writer has connected" in caplog.text
    assert not [token for token in TOKENS.values() if token in caplog.text]


async def test_a_guest_that_may_read_can_say_what_it_likes(short_dir: Path) -> None:
    async with exposed(short_dir) as place:
        place.admit("reader", "writer")
        reader, _ = place.set_out("reader")
        writer, _ = place.set_out("writer")
        await reader.welcome("r", read_only="0")
        await writer.welcome("w")
        for shim in (reader, writer):
            shim.call("add_drawer", 1, name="x")
            await shim.reply()

        assert place.running.engine.read_only_calls == [True, False]
        assert place.sessions()["reader"]["read_only"] is True


async def test_a_revoked_guest_is_hung_up_on_and_others_go_on(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "LOOK_S", 0.01)
    async with exposed(short_dir) as place:
        place.admit("reader", "writer")
        reader, tunnel = place.set_out("reader")
        writer, _ = place.set_out("writer")
        await reader.welcome("r")
        await writer.welcome("w")

        place.admit("writer")
        with trio.fail_after(20):
            assert await reader.line() == b""
        await until(lambda: not tunnel.alive)
        again = await failure(*place.set_out("reader"))
        writer.call("status", 1)
        assert (await writer.reply())[0] == 0

    assert f"refused the token in {short_dir}/mounts/reader/guest.json: it was revoked" in again
    assert "palace expose docker NAME" in again


async def test_nobody_is_admitted_by_a_book_that_cant_be_understood(short_dir: Path) -> None:
    async with exposed(short_dir) as place:
        place.admit("writer")
        Path(book_path(place.directory)).write_text("{")
        text = await failure(*place.set_out("writer"))

        assert "refused the token" in text
        assert "no guest is admitted by it" in status_of(place.running.state)["last_error"]


async def test_another_palaces_book_admits_nobody(short_dir: Path) -> None:
    async with exposed(short_dir) as place:
        write_guests(place.directory, "b" * 32, {"writer": guest("writer")}, KERNEL)

        assert "refused the token" in await failure(*place.set_out("writer"))


async def test_the_next_broker_shows_the_certificate_that_guests_pin(short_dir: Path) -> None:
    pins = []
    for _ in range(2):
        async with exposed(short_dir) as place:
            record = json.loads((short_dir / "palace" / "broker.json").read_text())
            pins.append(record["fingerprint"])
            place.admit("writer")
            shim, _ = place.set_out("writer")
            await shim.welcome()

    assert pins[0] == pins[1]


async def test_whoever_has_the_palaces_directory_is_named_by_that(short_dir: Path) -> None:
    async with exposed(short_dir) as place:
        record = json.loads((short_dir / "palace" / "broker.json").read_text())
        mount = Paths(str(short_dir / "mounts/lent"))
        Path(mount.root).mkdir()
        Path(mount.record).write_text(json.dumps(record))
        site = Site(KERNEL, mount, ShimEnvironment({"HOME": str(short_dir)}))
        fallbacks = Fallbacks(site)
        tunnel = fallbacks.open(fallbacks.candidates()[0])
        shim = Shim(tunnel.sock, place.running.nursery)
        place.running.shims.append(shim)
        await shim.welcome()

        assert set(place.sessions()) == {guests.RECORDS}
        await trio.lowlevel.checkpoint()
