"""`palace own --through` and `--forget`: which guest's directories are kept as ways, and where."""

from pathlib import Path

import attrs
import pytest

from palace.commands.own_ways import WAYS_MAX, forget_way, keep_way, ways_text
from palace.kernel.kernel import Kernel
from palace.ownership.guest_file import NAME, GuestFile
from palace.ownership.owners import owners_directory, read_way, way_path
from palace.protocol.errors import ConfigError, UnsafePalace
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

KERNEL = Kernel()
OWN = "0" * 32
ID = "a1" * 16


@attrs.frozen
class Place:
    """A palace whose drawers a database keeps; no server is asked."""

    paths: Paths
    environment: ShimEnvironment
    lent: Path

    @property
    def directory(self) -> str:
        return owners_directory(self.paths.root, self.environment.all)

    def bring(self, palace_id: str = ID, url: str = "wss://db:7253", token: str = "t") -> str:
        texts = {"name": "hostb", "palace": "/srv/p", "token": token, "fingerprint": "f"}
        made = GuestFile([url], palace_id=palace_id, **texts)
        (self.lent / NAME).write_bytes(made.encode())
        return str(self.lent)

    def keep(self, given: str) -> str:
        return keep_way(self.paths, self.environment, given)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("home", "palace", "lent"):
        (tmp_path / name).mkdir(mode=0o700)
    paths = Paths(str(tmp_path / "palace"))
    Path(paths.palace_id).write_text(f"{OWN}\n")
    environ = {
        "HOME": str(tmp_path / "home"),
        "MEMPALACE_BACKEND": "pgvector",
        "MEMPALACE_PGVECTOR_DSN": "postgresql://nobody@127.0.0.1:1/none",
    }
    return Place(paths, ShimEnvironment(environ), tmp_path / "lent")


def test_a_guests_directory_or_its_file_is_kept_for_its_user_alone(place: Place) -> None:
    said = place.keep(place.bring())

    assert "a1a1a1a1, /srv/p at wss://db:7253, as guest hostb" in said
    kept = Path(way_path(place.directory, ID))
    assert (kept.stat().st_mode & 0o077, kept.parent.stat().st_mode & 0o077) == (0, 0)
    place.keep(f"{place.bring(token='another')}/{NAME}")
    found = read_way(place.directory, ID, KERNEL)
    assert found is not None
    assert found.token == "another"
    assert ways_text(place.paths, place.environment).count("\n") == 1


def test_what_is_no_way_is_refused_with_what_would_be_one(place: Place) -> None:
    (place.lent / NAME).write_text("{}")
    with pytest.raises(ConfigError, match="palace expose guest NAME --into DIR"):
        place.keep(str(place.lent))
    with pytest.raises(ConfigError, match="palace expose guest NAME --into DIR"):
        place.keep(str(place.lent / "absent"))
    for lacking in ({"url": "ws://db:7253"}, {"token": ""}):
        with pytest.raises(ConfigError, match="is no guest's directory"):
            place.keep(place.bring(**lacking))
    with pytest.raises(ConfigError, match=r"leads to .* itself"):
        place.keep(place.bring(OWN))
    assert ways_text(place.paths, place.environment) == ""


def test_a_palace_in_files_needs_no_way(place: Place) -> None:
    environ = {**place.environment.all, "MEMPALACE_BACKEND": "chroma"}
    with pytest.raises(ConfigError, match="are in files"):
        keep_way(place.paths, ShimEnvironment(environ), place.bring())


def test_a_directory_that_others_may_write_to_holds_no_ways(place: Place) -> None:
    Path(place.directory).mkdir(parents=True)
    Path(place.directory).chmod(0o777)
    with pytest.raises(UnsafePalace, match="The directory of ways"):
        place.keep(place.bring())


def test_a_way_is_forgotten_by_the_beginning_of_its_palaces_identity(place: Place) -> None:
    place.keep(place.bring())
    place.keep(place.bring("a2" * 16))
    for name in ("a", "b", ""):
        with pytest.raises(ConfigError, match=r"names [02] of the ways kept here \(a1a1a1a1, a2a2"):
            forget_way(place.paths, place.environment, name)
    assert "Forgotten: a2a2a2a2" in forget_way(place.paths, place.environment, "a2")
    assert read_way(place.directory, "a2" * 16, KERNEL) is None
    assert read_way(place.directory, ID, KERNEL) is not None


def test_ways_are_no_more_than_a_bound(place: Place) -> None:
    for number in range(WAYS_MAX):
        place.keep(place.bring(f"{number:032x}"[::-1] if number else ID))
    with pytest.raises(ConfigError, match="palace own --forget"):
        place.keep(place.bring("f" * 32))
    place.keep(place.bring(token="renewed"))
