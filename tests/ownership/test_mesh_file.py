"""What is kept of a palace's mesh: the user's agreement and a token, nothing by others."""

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from palace.kernel.kernel import Kernel
from palace.ownership.mesh_file import (
    FILE_BYTES_MAX,
    URLS_MAX,
    MeshFile,
    agreeing,
    keep_mesh,
    merged,
    mesh_path,
    peers_of,
    read_mesh,
    with_token,
    write_mesh,
)
from palace.protocol.errors import ConfigError, UnsafePalace
from palace.protocol.mesh import MeshPeer
from tests.support.machines.needs import need_root

KERNEL = Kernel()
ID = "a" * 32
A, B = "http://a.example", "http://b.example"
KEPT = MeshFile(token="t" * 43, agreed=(A, B), port=8765)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = mesh_path(
        "/lent/palace", {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "s")}
    )
    assert Path(found).is_relative_to(tmp_path / "s")
    return Path(found)


def name(root: Path, *urls: str) -> None:
    listed = [{"name": "n", "url": url, "token": "t"} for url in urls]
    (root / "peers.json").write_text(json.dumps({"peers": listed}))


def test_what_was_kept_is_read_for_this_user_alone(path: Path) -> None:
    assert read_mesh(str(path), ID, KERNEL) == MeshFile()
    for mesh in (KEPT, MeshFile(), MeshFile(agreed=()), MeshFile(port=65_535)):
        write_mesh(str(path), ID, mesh, KERNEL)
        assert read_mesh(str(path), ID, KERNEL) == mesh
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert path.read_bytes().endswith(b"}\n")
    assert mesh_path("/lent/other", {"XDG_STATE_HOME": str(path.parents[1])}) != str(path)


def test_a_file_beyond_its_size_is_refused(path: Path) -> None:
    write_mesh(str(path), ID, KEPT, KERNEL)
    path.write_text(path.read_text()[:-2] + " " * FILE_BYTES_MAX + "}")

    with pytest.raises(ConfigError):
        read_mesh(str(path), ID, KERNEL)


def test_a_token_is_in_no_text_about_it() -> None:
    assert KEPT.token not in f"{KEPT} {KEPT!r}"


def test_of_another_palaces_file_nobody_is_agreed_to(path: Path) -> None:
    write_mesh(str(path), "b" * 32, KEPT, KERNEL)

    assert read_mesh(str(path), ID, KERNEL) == MeshFile(agreed=())


ODD: dict[str, dict[str, Any]] = {
    "a later version": {"v": 2},
    "no version": {"v": None},
    "a token that is a number": {"token": 7},
    "a token of two lines": {"token": "a\nb"},
    "a port that is a text": {"port": "8765"},
    "a port that is none": {"port": 65_536},
    "a negative port": {"port": -1},
    "agreement to a text": {"agreed": 7},
    "agreement to a number": {"agreed": [A, 7]},
}


@pytest.mark.parametrize("what", ODD)
def test_a_file_that_cant_be_understood_is_named_with_its_remedy(path: Path, what: str) -> None:
    write_mesh(str(path), ID, KEPT, KERNEL)
    path.write_text(json.dumps(json.loads(path.read_text()) | ODD[what]))
    before = path.read_bytes()

    with pytest.raises(ConfigError, match="palace mesh --trust") as caught:
        read_mesh(str(path), ID, KERNEL)
    assert str(path) in str(caught.value)
    assert KEPT.token not in str(caught.value)
    with pytest.raises(ConfigError):
        keep_mesh(str(path), ID, MeshFile(token="mine"), KERNEL)
    assert path.read_bytes() == before, "what was agreed to may be in it"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 30_000, "{}"])
def test_what_is_no_file_of_the_mesh_is_refused(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)

    with pytest.raises(ConfigError, match="takes no part in the mesh"):
        read_mesh(str(path), ID, KERNEL)


def test_another_users_file_counts_for_nothing(path: Path) -> None:
    need_root()
    write_mesh(str(path), ID, KEPT, KERNEL)
    os.chown(path, 65534, 65534)

    with pytest.raises(ConfigError, match="another user's"):
        read_mesh(str(path), ID, KERNEL)


def test_a_file_that_cant_be_opened_is_told_by_its_cause(path: Path) -> None:
    path.mkdir(parents=True)

    with pytest.raises(ConfigError, match=r"used \(it is no regular file\), so"):
        read_mesh(str(path), ID, KERNEL)


def test_where_others_may_write_nothing_is_kept(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o777)

    with pytest.raises(UnsafePalace, match=r"The mesh's directory .* Correct or remove it"):
        write_mesh(str(path), ID, KEPT, KERNEL)
    assert not path.exists()


def test_what_the_user_decided_meanwhile_counts(path: Path) -> None:
    mine = MeshFile(token="mine", agreed=(A,), port=1)

    assert keep_mesh(str(path), ID, mine, KERNEL) == mine
    write_mesh(str(path), ID, MeshFile(token="theirs", agreed=(B,), port=2), KERNEL)
    kept = keep_mesh(str(path), ID, attrs.evolve(mine, port=0), KERNEL)
    assert kept == MeshFile(token="theirs", agreed=(B,), port=2)
    assert keep_mesh(str(path), ID, mine, KERNEL).port == 1
    assert read_mesh(str(path), ID, KERNEL) == MeshFile(token="theirs", agreed=(B,), port=1)


def test_what_changes_nothing_is_not_written(path: Path) -> None:
    write_mesh(str(path), ID, KEPT, KERNEL)
    before = path.stat().st_ino

    keep_mesh(str(path), ID, KEPT, KERNEL)

    assert path.stat().st_ino == before


def test_agreement_to_nobody_is_a_decision() -> None:
    assert merged(MeshFile(agreed=()), KEPT).agreed == ()
    assert merged(MeshFile(agreed=None), KEPT).agreed == (A, B)


def test_only_what_was_agreed_to_counts() -> None:
    peers = [MeshPeer(name=url[-9:], url=url) for url in (B, A, B)]
    told = agreeing(MeshFile(token="t", agreed=("http://old.example",)), peers)

    assert (told.token, told.agreed) == ("t", (A, B))
    assert told.counts(peers[0])
    assert not told.counts(MeshPeer(name="x", url=A + "/"))
    assert not MeshFile().counts(peers[0])
    many = [MeshPeer(name="n", url=f"http://{n}.example") for n in range(URLS_MAX + 5)]
    assert len(agreeing(MeshFile(), many).agreed or ()) == URLS_MAX


@pytest.mark.parametrize(
    ("stocks", "taken"),
    [
        ("what peers were given", True),
        ("f" * 63, True),
        ("0123456789abcdef" * 4, False),  # a broker's own
        ("0123456789ABCDEF" * 4, True),  # nobody's but stock's
        ("g" * 64, True),
        ("", False),
        ("two\nlines", False),
    ],
)
def test_a_token_that_peers_were_given_goes_on_opening(stocks: str, *, taken: bool) -> None:
    found = with_token(MeshFile(agreed=(A,)), stocks, KERNEL)

    assert (found.token == stocks) is taken
    assert len(found.token) >= 32 or taken
    assert found.agreed == (A,)
    assert with_token(MeshFile(token="kept"), stocks, KERNEL).token == "kept"


def test_peers_are_those_of_the_palaces_file(tmp_path: Path) -> None:
    assert peers_of(str(tmp_path), KERNEL) is None
    name(tmp_path, A, B)
    found = peers_of(str(tmp_path), KERNEL)
    assert found is not None
    assert [peer.url for peer in found] == [A, B]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"peers": 7}', " " * FILE_BYTES_MAX + '{"peers": []}']
)
def test_peers_that_cant_be_understood_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "peers.json").write_text(text)

    with pytest.raises(ConfigError, match="Nobody is pulled from"):
        peers_of(str(tmp_path), KERNEL)


def test_a_file_of_peers_is_read_up_to_its_limit(tmp_path: Path) -> None:
    text = json.dumps({"peers": []})
    (tmp_path / "peers.json").write_text(" " * (FILE_BYTES_MAX - len(text)) + text)
    assert peers_of(str(tmp_path), KERNEL) == ()
    (tmp_path / "peers.json").unlink()
    (tmp_path / "peers.json").mkdir()
    with pytest.raises(ConfigError):
        peers_of(str(tmp_path), KERNEL)
