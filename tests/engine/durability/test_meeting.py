"""The first meeting of an owner and a journal, and what `palace trust` makes of it."""

from pathlib import Path

import pytest

from palace.commands.trust import add_keys, discard_aside, keys_text, trust_journal, writers_text
from palace.doctor.diagnostics import gather
from palace.doctor.finding import WARNING, Finding
from palace.doctor.journal import check_journal, inspect_journal
from palace.engine.durability.meeting import meet_journal
from palace.engine.durability.owned import OwnedPalace
from palace.journal.aside import kept_aside
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, Draft, Stamp
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.ownership.keys import known_keys, take_keys
from palace.protocol.errors import ConfigError
from palace.protocol.keyring import ANYBODYS, Key, Keyring
from palace.settings.config import Config, load_config
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

KERNEL = Kernel()
IDENTITY = "1" * 32
OTHERS = Keyring([Key(b"o" * 32)])


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    root = tmp_path / "store/palace"
    root.mkdir(parents=True, mode=0o700)
    (tmp_path / "home").mkdir()
    found = Paths(str(root))
    Path(found.palace_id).write_text(f"{IDENTITY}\n")
    return found


@pytest.fixture
def environment(tmp_path: Path) -> ShimEnvironment:
    return ShimEnvironment({"HOME": str(tmp_path / "home")})


def write(paths: Paths, keys: Keyring, epoch: int, payload: int) -> Journal:
    journal = Journal.open(paths.journal, KERNEL, Stamp(epoch=epoch, writer="w", keys=keys))
    journal.append([Draft(action=ADOPT, kind="graph:entity", id="a", payload=payload)])
    journal.close()
    return journal


def owned(paths: Paths, environment: ShimEnvironment) -> OwnedPalace:
    keys = take_keys(IDENTITY, "", "", environment.all, KERNEL)
    config: Config = load_config(paths, environment.all, KERNEL)
    stamp = Stamp(epoch=9, writer="w9", keys=keys.ring)
    return OwnedPalace(paths=paths, config=config, kernel=KERNEL, stamp=stamp, keys=keys)


def value(paths: Paths, keys: Keyring) -> object:
    known = replay(paths.journal, KERNEL, keys=keys)
    return known.payload(("graph:entity", "a")) if known.live else None


def unknown_keys(paths: Paths, environment: ShimEnvironment) -> list[Finding]:
    found = check_journal(gather(paths, environment))
    return [finding for finding in found if finding.code == "unknown_keys"]


def test_a_journal_of_an_earlier_version_is_sealed_at_the_first_meeting(
    paths: Paths, environment: ShimEnvironment
) -> None:
    write(paths, ANYBODYS, 1, 1)
    palace = owned(paths, environment)

    meet_journal(palace)

    keys = known_keys(paths, environment.all, KERNEL)
    assert keys.floor == 0
    assert value(paths, keys) == 1
    write(paths, ANYBODYS, 2, 2)
    assert value(paths, keys) == 1, "nothing without a code counts any more"
    write(paths, keys, 3, 3)
    assert kept_aside(paths.journal, KERNEL)[0] == 1
    assert value(paths, keys) == 3


def test_another_owners_journal_counts_as_it_is_found_until_it_is_trusted(
    paths: Paths, environment: ShimEnvironment
) -> None:
    write(paths, OTHERS, 1, 1)
    meet_journal(owned(paths, environment))
    keys = known_keys(paths, environment.all, KERNEL)
    assert keys.floor == 1
    assert value(paths, keys) == value(paths, OTHERS) == 1, "its owner may come back"
    write(paths, OTHERS, 2, 2)
    assert value(paths, keys) == 1
    [found] = unknown_keys(paths, environment)
    assert (found.level, "palace trust" in found.remedy) == (WARNING, True)
    assert "not known here" in writers_text(paths, environment)
    assert "palace trust --yes" in writers_text(paths, environment)

    said = trust_journal(paths, environment, stop=False)

    keys = known_keys(paths, environment.all, KERNEL)
    assert keys.own is not None
    assert keys.own.id in said
    assert (keys.floor, value(paths, keys)) == (0, 1)
    assert unknown_keys(paths, environment) == []


def test_owners_in_turn_share_their_keys(
    tmp_path: Path, paths: Paths, environment: ShimEnvironment
) -> None:
    (tmp_path / "other").mkdir()
    other = ShimEnvironment({"HOME": str(tmp_path / "other")})
    with pytest.raises(ConfigError, match="has no keys"):
        keys_text(paths, environment)
    meet_journal(owned(paths, environment))
    keys = known_keys(paths, environment.all, KERNEL)
    write(paths, keys, 1, 1)
    file = tmp_path / "keys"
    file.write_text(keys_text(paths, environment))

    add_keys(paths, other, str(file))

    theirs = known_keys(paths, other.all, KERNEL)
    write(paths, theirs, 2, 2)
    assert value(paths, keys) == 2
    assert "this user writes with it" in writers_text(paths, environment)
    assert inspect_journal(paths.journal, KERNEL, keys) == []


@pytest.mark.parametrize("text", ["", "no key", "ff" * 31, "\xe9"])
def test_a_file_without_keys_is_refused_by_name(
    tmp_path: Path, paths: Paths, environment: ShimEnvironment, text: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)

    with pytest.raises(ConfigError, match="holds no keys"):
        add_keys(paths, environment, str(file))


def test_what_was_set_aside_is_removed_when_its_owner_says_so(
    paths: Paths, environment: ShimEnvironment
) -> None:
    meet_journal(owned(paths, environment))
    keys = known_keys(paths, environment.all, KERNEL)
    write(paths, keys, 1, 1)
    write(paths, ANYBODYS, 2, 2)
    write(paths, keys, 3, 3)
    assert [found.code for found in inspect_journal(paths.journal, KERNEL, keys)] == ["set_aside"]
    assert "1 lines are set aside" in writers_text(paths, environment)

    assert discard_aside(paths, environment, stop=False) == "1 lines in 1 files were removed."

    assert inspect_journal(paths.journal, KERNEL, keys) == []
