"""The keys of a journal: made once, kept for one user, and known for whose palace they are."""

import json
import os
from pathlib import Path

import pytest

from palace.kernel.kernel import Kernel
from palace.ownership.keys import ANY_SEQ, accept_keys, key_path, known_keys, read_keys, take_keys
from palace.ownership.served import known_here
from palace.protocol.errors import LockFailed
from palace.protocol.keyring import Key
from palace.settings.paths import Paths
from tests.ownership.test_served import make, serve, take

KERNEL = Kernel()
ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home")}


def test_a_key_is_made_once_and_for_its_user_alone(environ: dict[str, str]) -> None:
    keys = take_keys(ONE, "", "", environ, KERNEL)

    path = Path(key_path(ONE, environ))
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    again = take_keys(ONE, "", "", environ, KERNEL)
    assert again.ring.keys[0].secret == keys.ring.keys[0].secret
    assert take_keys(TWO, "", "", environ, KERNEL).ring.keys[0].id != keys.ring.keys[0].id


def test_what_a_first_owner_finds_counts_until_it_is_settled(environ: dict[str, str]) -> None:
    keys = take_keys(ONE, "", "", environ, KERNEL)
    assert (keys.is_first, keys.is_settled, keys.ring.floor) == (True, False, ANY_SEQ)
    assert take_keys(ONE, "", "", environ, KERNEL).ring.floor == ANY_SEQ, "its owner died"

    keys.settle(7)

    again = take_keys(ONE, "", "", environ, KERNEL)
    assert (again.is_settled, again.ring.floor) == (True, 7)


def test_what_took_the_place_of_a_known_palace_is_not_trusted(environ: dict[str, str]) -> None:
    assert take_keys(TWO, ONE, "", environ, KERNEL).is_first, "the other one has no keys either"
    os.unlink(key_path(TWO, environ))
    take_keys(ONE, "", "", environ, KERNEL)

    keys = take_keys(TWO, ONE, "", environ, KERNEL)

    assert (keys.is_first, keys.is_settled, keys.ring.floor) == (False, True, 0)


def test_a_copy_accepts_what_the_original_wrote(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    original = serve(paths, environ).keys
    os.system(f"cp -a {paths.root} {tmp_path}/copy")

    copy = serve(Paths(f"{tmp_path}/copy"), environ).keys

    assert original is not None
    assert copy is not None
    assert copy.palace_id != original.palace_id
    own, other = copy.ring.keys
    assert (other.id, own.id != other.id) == (original.ring.keys[0].id, True)
    assert (copy.is_settled, copy.ring.floor) == (True, original.ring.floor)


def test_maintenance_of_a_copy_has_the_originals_keys(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    paths = make(tmp_path / "palace")
    original = serve(paths, environ).keys
    os.system(f"cp -a {paths.root} {tmp_path}/copy")

    memory = take(Paths(f"{tmp_path}/copy"), environ, serves=False)

    assert original is not None
    assert memory.keys is not None
    assert memory.keys.palace_id == original.palace_id
    assert memory.keys.ring.keys[0].id == original.ring.keys[0].id
    assert known_here(f"{tmp_path}/copy", environ, KERNEL) == "", "it is remembered by its broker"
    assert known_here(paths.root, environ, KERNEL) == original.palace_id
    assert known_here(paths.root, {"HOME": str(tmp_path / "third")}, KERNEL) == ""


def test_a_moved_palace_has_the_keys_that_it_had(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    was = serve(paths, environ).keys
    os.rename(paths.root, tmp_path / "moved")

    now = serve(Paths(f"{tmp_path}/moved"), environ).keys

    assert was is not None
    assert now is not None
    assert now.ring.keys[0].id == was.ring.keys[0].id


def test_without_a_place_for_them_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    paths = make(tmp_path / "palace")

    memory = serve(paths, {"HOME": str(tmp_path / "file")})

    assert memory.keys is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"v": 9}', '{"v": 1, "palace_id": "x", "keys": []}']
)
def test_damaged_keys_are_named_and_not_replaced(environ: dict[str, str], text: str) -> None:
    take_keys(ONE, "", "", environ, KERNEL)
    path = Path(key_path(ONE, environ))
    path.write_text(text)

    with pytest.raises(LockFailed, match="does not hold the keys"):
        take_keys(ONE, "", "", environ, KERNEL)

    assert path.read_text() == text


def test_keys_of_another_palace_are_not_taken_for_this_ones(environ: dict[str, str]) -> None:
    take_keys(ONE, "", "", environ, KERNEL)
    other = "b" * 32
    Path(key_path(other, environ)).write_bytes(Path(key_path(ONE, environ)).read_bytes())

    with pytest.raises(LockFailed, match="another palace's"):
        read_keys(other, environ, KERNEL)


def test_another_owners_keys_are_accepted_once(environ: dict[str, str]) -> None:
    own = take_keys(ONE, "", "", environ, KERNEL)
    own.settle()
    other = Key(b"o" * 32)

    for _ in range(2):
        accept_keys(ONE, [other], environ, KERNEL)

    found = read_keys(ONE, environ, KERNEL)
    assert found is not None
    assert [key.id for key in found.ring.keys] == [own.ring.keys[0].id, other.id]


def test_who_gets_the_keys_first_writes_with_them(tmp_path: Path, environ: dict[str, str]) -> None:
    paths = make(tmp_path / "palace")
    Path(paths.palace_id).write_text(f"{ONE}\n")
    accept_keys(ONE, [Key(b"o" * 32)], environ, KERNEL)

    keys = serve(paths, environ).keys

    assert keys is not None
    assert (keys.ring.keys[0].secret, keys.is_settled, keys.ring.floor) == (b"o" * 32, True, 0)
    assert known_keys(paths, environ, KERNEL).keys[0].secret == b"o" * 32


def test_nothing_of_a_secret_is_in_its_name(environ: dict[str, str]) -> None:
    keys = take_keys(ONE, "", "", environ, KERNEL)
    secret = json.loads(Path(key_path(ONE, environ)).read_text())["keys"][0]["secret"]

    assert bytes.fromhex(secret) == keys.ring.keys[0].secret
    assert keys.ring.keys[0].id not in secret
