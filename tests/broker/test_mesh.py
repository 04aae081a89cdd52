"""Whom a palace pulls from: what its user has agreed to, whoever else may write to the palace."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from palace.broker.mesh import asking
from palace.broker.mesh.part import MeshPart
from palace.broker.mesh.pulling import decoded
from palace.broker.mesh.rounds import _pulled
from palace.commands.mesh import trust_peers
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.mesh_file import agreeing, mesh_path, read_mesh, write_mesh
from palace.ownership.place import take_place
from palace.ownership.served import forget_served
from palace.protocol.errors import ConfigError
from palace.protocol.mesh import MeshPeer
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.transport.fetch import TooMuch

KERNEL = Kernel()
A, B = "http://a.example", "http://b.example"


@attrs.frozen
class Home:
    """A user's home and a palace that others may write to, too."""

    root: Path
    environ: dict[str, str]

    @property
    def kept(self) -> Path:
        """Where the user's part of the palace's mesh is kept."""
        return Path(mesh_path(str(self.root), self.environ))

    def name(self, *urls: str) -> None:
        listed = [{"name": url[-9:], "url": url, "token": "t"} for url in urls]
        (self.root / "peers.json").write_text(json.dumps({"peers": listed}))

    def make_new(self) -> None:
        """Remove all of the palace that tells of an owner, as whoever writes there could."""
        (self.root / "palace_id").write_text("6" * 32 + "\n")
        (self.root / "epoch").unlink()
        shutil.rmtree(self.root / "journal", ignore_errors=True)

    async def serve(self, *, then: Callable[[], None] | None = None) -> MeshPart:
        """Own the palace for a moment, as a broker does; `then` is what happens meanwhile."""
        owner = lock.take_lock(Paths(str(self.root)), KERNEL)
        try:
            owner.memory = take_place(owner, self.environ, KERNEL, serves=True)
            part = MeshPart.of(owner, KERNEL, self.environ, wanted="auto")
            part.begin_serving("")
            await part.settle()
            if then is not None:
                then()
                part.look()
                part.note_port(8765)
                await part.settle()
            return part
        finally:
            KERNEL.close(owner.lock_fd)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "palace").mkdir(mode=0o700)
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "palace", {"HOME": str(tmp_path / "home")})


def followed(part: MeshPart) -> list[str]:
    return [peer.url for peer in part.peers if part.is_followed(peer)]


async def test_peers_that_a_palace_brings_along_are_agreed_to_and_later_ones_are_not(
    home: Home,
) -> None:
    home.name(A)
    assert followed(await home.serve()) == [A]
    home.name(A, B)
    assert followed(await home.serve()) == [A]


async def test_a_palace_that_was_served_agrees_to_nobody_who_is_named_later(home: Home) -> None:
    """Neither its first owner nor another one, and whatever is removed from the palace."""
    part = await home.serve(then=lambda: home.name(A))
    assert [peer.url for peer in part.peers] == [A]
    assert not followed(part)
    assert not followed(await home.serve())
    home.kept.unlink()
    assert not followed(await home.serve())


async def test_one_that_never_had_peers_agrees_to_nobody_after_months(home: Home) -> None:
    assert not (await home.serve()).peers
    assert not home.kept.exists()  # it costs nothing
    home.name(A)
    home.make_new()
    assert not followed(await home.serve())


@pytest.mark.parametrize("damage", ["{", "[]", '{"v": 9}', '{"token": "\udcff"}'])
async def test_what_cant_be_read_is_not_written_over_and_agrees_to_nobody(
    home: Home, damage: str
) -> None:
    data = damage.encode("utf-8", "surrogateescape")

    def spoil() -> None:
        home.kept.write_bytes(data)
        home.name(A, B)

    home.name(A)
    for part in (await home.serve(then=spoil), await home.serve()):
        assert not followed(part)
        assert "takes no part in the mesh" in part.problem
        assert not part.is_token(b"Bearer ")
        assert home.kept.read_bytes() == data
    with pytest.raises(ConfigError, match="Remove it"):
        trust_peers(Paths(str(home.root)), ShimEnvironment(home.environ))
    assert home.kept.read_bytes() == data

    home.kept.unlink()
    assert not followed(await home.serve())
    trust_peers(Paths(str(home.root)), ShimEnvironment(home.environ))
    assert followed(await home.serve()) == [A, B]


async def test_peers_json_that_cant_be_read_leaves_what_is_kept_as_it_is(home: Home) -> None:
    home.name(A)
    await home.serve()
    before = home.kept.read_bytes()
    (home.root / "peers.json").write_text("{")
    assert (await home.serve()).problem
    assert home.kept.read_bytes() == before


async def test_with_another_identity_nobody_is_agreed_to(home: Home) -> None:
    """It lies in the palace: whoever may write there may change it."""
    home.name(A)
    assert followed(await home.serve()) == [A]
    (home.root / "palace_id").write_text("5" * 32 + "\n")
    home.name(A, B)
    assert not followed(await home.serve())
    assert not followed(await home.serve())


async def test_what_is_kept_of_another_identity_is_enough_to_agree_to_nobody(home: Home) -> None:
    """Even where nothing else remembers that the palace was served."""
    home.name(A)
    await home.serve()
    home.make_new()
    forget_served(str(home.root), home.environ, KERNEL)
    assert not followed(await home.serve())


async def test_what_the_user_agrees_to_meanwhile_is_not_undone(home: Home) -> None:
    home.name(A)

    def agree() -> None:
        kept = read_mesh(str(home.kept), part.palace_id, KERNEL)
        write_mesh(str(home.kept), part.palace_id, agreeing(kept, ()), KERNEL)

    part = await home.serve()
    assert followed(part) == [A]
    part.note_port(9)
    agree()
    await part.settle()
    assert not followed(part)
    assert read_mesh(str(home.kept), part.palace_id, KERNEL).port == 9


async def test_peers_that_come_while_a_broker_runs_are_given_a_token(home: Home) -> None:
    part = await home.serve(then=lambda: home.name(A))
    token = json.loads(home.kept.read_text())["token"]
    assert part.is_token(f"Bearer {token}".encode())
    assert len(token) >= 32


def test_an_answer_of_nothing_but_brackets_is_not_parsed() -> None:
    """32 MiB of them would take 0.9 GB; a page that is asked for anew has fewer events."""
    with pytest.raises(TooMuch, match="more than 100000 values"):
        decoded(b'{"events": [' + b"{}," * 100_000 + b"{}]}")


def test_the_biggest_event_that_is_taken_is_parsed() -> None:
    event = {"metadata": {"a": [[]] * 16_000}, "artifact_ids": ["a"] * 1024, "body": ",[{" * 80_000}
    assert decoded(json.dumps({"events": [event]}).encode()) == {"events": [event]}


async def test_a_peer_that_nobody_foresaw_is_noted_and_ends_no_round() -> None:
    part = MeshPart()
    told = await _pulled(part, MeshPeer(name="a", url="no address"), asking=None)
    assert "pulling from it failed: Unacceptable" in told["error"]
    assert part.states["a"].error == told["error"]


async def test_a_long_reply_is_read_in_a_thread_and_a_short_one_at_once() -> None:
    def reply(text: str) -> bytes:
        return json.dumps({"result": {"content": [{"text": json.dumps({"a": text})}]}}).encode()

    told: list[object] = []

    async def ask() -> None:
        told.append(await asking.told_apart(reply("x" * 100_000)))

    asking._PARSING.acquire_nowait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert not told
        assert await asking.told_apart(reply("short")) == {"a": "short"}
        asking._PARSING.release()
    assert told == [{"a": "x" * 100_000}]
