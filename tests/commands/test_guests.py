"""`palace expose docker`, `guest` and `revoke`: a directory with an address and a token."""

import json
from pathlib import Path

import attrs
import pytest

from palace.broker.certificate import keep_identity, make_identity
from palace.commands.config import change_settings
from palace.commands.expose import expose_to_guest
from palace.commands.guests import Wish, guests_text, revoke_guest
from palace.kernel.kernel import Kernel
from palace.ownership.book import whose_token
from palace.ownership.guest_book import guests_directory, read_guests
from palace.ownership.guest_file import GuestFile, read_guest_file
from palace.protocol.errors import ConfigError, UnsafePalace
from palace.settings.config import load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

KERNEL = Kernel()
ID = "a" * 32


@attrs.frozen
class Place:
    paths: Paths
    environment: ShimEnvironment

    @property
    def directory(self) -> str:
        return guests_directory(self.paths.root, self.environment.all)

    def expose(self, name: str, *, read_only: bool = False, into: str = "") -> str:
        wish = Wish(name=name, read_only=read_only, into=into)
        return expose_to_guest(self.paths, self.environment, wish, keep_identity)

    def given(self, name: str, into: str = "") -> GuestFile:
        found = read_guest_file(Paths(into or f"{self.directory}/{name}"), KERNEL)
        assert found is not None
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    root = tmp_path / "palace"
    root.mkdir(mode=0o700)
    (root / "palace_id").write_text(ID)
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    made = Place(Paths(str(root)), ShimEnvironment(environ))
    settings = {"listen": "192.0.2.7:1", "advertise": ["h:1", "192.0.2.7:1"]}
    change_settings(made.paths, made.environment, settings, KERNEL)
    return made


def test_a_guests_directory_has_address_pin_and_token_and_nothing_else(place: Place) -> None:
    said = place.expose("ci", read_only=True)

    found = place.given("ci")
    directory = Path(place.directory, "ci")
    config = load_config(place.paths, place.environment.all, KERNEL)
    shown = make_identity(config, KERNEL, place.directory)
    guest = whose_token(found.token, read_guests(place.directory, ID, KERNEL))
    assert [path.name for path in directory.iterdir()] == ["guest.json"]
    assert (directory / "guest.json").stat().st_mode & 0o777 == 0o600
    assert found.endpoints == ["wss://h:1", "wss://192.0.2.7:1"]
    assert (found.palace_id, found.fingerprint) == (ID, shown.fingerprint)
    assert guest is not None
    assert (guest.name, guest.read_only) == ("ci", True)
    assert f"-v {directory}:/palace:ro -e MEMPALACE_PATH=/palace" in said
    assert found.token not in said
    assert "ci: may read, since" in guests_text(place.paths, place.environment.all)


def test_what_is_made_again_keeps_its_token_and_gets_the_new_address(place: Place) -> None:
    place.expose("ci")
    before = place.given("ci")
    change_settings(place.paths, place.environment, {"advertise": ["new:1"]}, KERNEL)
    place.expose("other")

    place.expose("ci")

    after = place.given("ci")
    assert (after.token, after.endpoints) == (before.token, ["wss://new:1"])
    assert place.given("other").token != after.token
    assert after.fingerprint == before.fingerprint == place.given("other").fingerprint


def test_a_revoked_token_is_not_given_out_again(place: Place, tmp_path: Path) -> None:
    into = str(tmp_path / "elsewhere")
    place.expose("ci", into=into)
    before = place.given("ci", into)

    revoke_guest(place.paths, place.environment, "ci")

    assert read_guests(place.directory, ID, KERNEL) == {}
    assert "none" in guests_text(place.paths, place.environment.all)
    with pytest.raises(ConfigError, match="There is no guest 'ci'"):
        revoke_guest(place.paths, place.environment, "ci")
    place.expose("ci", into=into)
    assert place.given("ci", into).token != before.token


def test_a_directory_that_others_may_write_to_gets_no_token(place: Place, tmp_path: Path) -> None:
    into = tmp_path / "open"
    into.mkdir()
    into.chmod(0o777)

    with pytest.raises(UnsafePalace, match="It will hold a token"):
        place.expose("ci", into=str(into))

    assert list(into.iterdir()) == []


def test_a_palaces_own_directory_is_no_guests(place: Place) -> None:
    with pytest.raises(ConfigError, match="holds a palace"):
        place.expose("ci", into=place.paths.root)


@pytest.mark.parametrize("missing", ["listen", "identity"])
def test_what_a_guest_could_not_use_is_not_made(place: Place, missing: str) -> None:
    if missing == "listen":
        change_settings(place.paths, place.environment, {"listen": None}, KERNEL)
    else:
        Path(place.paths.palace_id).unlink()

    with pytest.raises(ConfigError, match=r"palace (expose docker|start)"):
        place.expose("ci")

    assert not Path(place.directory).exists()


def test_a_kept_certificate_that_is_damaged_is_named(place: Place) -> None:
    place.expose("ci")
    kept = Path(place.directory, "certificate.pem")
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_text("no certificate")

    with pytest.raises(ConfigError, match=f"{kept}"):
        place.expose("ci")

    assert json.loads(Path(place.directory, "ci", "guest.json").read_text())["v"] == 1
