"""What stands in the palace where a control file belongs, or in one."""

from collections.abc import Callable
from pathlib import Path

from palace.doctor.finding import ERROR
from palace.ownership.lock import mempalace_lock_path
from tests.doctor.situations.place import Place, Situation

AWAY = "move it away"


def _directory(name: str) -> Callable[[Place], None]:
    return lambda place: (place.palace / name).mkdir()


def _holding(name: str, text: str) -> Callable[[Place], None]:
    def arrange(place: Place) -> None:
        (place.palace / name).write_text(text)

    return arrange


def _away(name: str) -> Callable[[Place], None]:
    def heal(place: Place) -> None:
        (place.palace / name).rename(place.home / "away")

    return heal


def _without(name: str) -> Callable[[Place], None]:
    return lambda place: (place.palace / name).unlink()


def _linked(place: Place) -> None:
    (place.home / "elsewhere").write_text("")
    (place.palace / "palace.toml").symlink_to(place.home / "elsewhere")


def _fence(place: Place) -> Path:
    return Path(mempalace_lock_path(place.paths, place.environ))


def _fence_linked(place: Place) -> None:
    _fence(place).parent.mkdir(parents=True)
    _fence(place).symlink_to(place.home / "elsewhere")


def _lock_of_tunnels(place: Place) -> Path:
    return place.palace.with_name("tunnels.json.owner.lock")


def _control(
    arrange: Callable[[Place], None], text: str, remedy: str, heal: Callable[[Place], None]
) -> Situation:
    return Situation(
        arrange=arrange, code="control_file", level=ERROR, text=text, remedy=remedy, heal=heal
    )


_epoch = _holding("epoch", "7\n")

SITUATIONS = {
    f"a directory stands where {name} belongs": _control(
        _directory(name), f"{name}: Is a directory", AWAY, _away(name)
    )
    for name in ("broker.lock", "broker.log", "broker.json", "broker.sock", "epoch")
} | {
    "a directory stands where mempalace's lock belongs": _control(
        lambda place: _fence(place).mkdir(parents=True),
        ".lock: Is a directory",
        AWAY,
        lambda place: _fence(place).rmdir(),
    ),
    "a link stands where mempalace's lock belongs": _control(
        _fence_linked,
        ".lock: Too many levels of symbolic links",
        "put the file itself there",
        lambda place: _fence(place).unlink(),
    ),
    "a directory stands where a list's lock belongs": _control(
        lambda place: _lock_of_tunnels(place).mkdir(),
        "tunnels.json.owner.lock: Is a directory",
        AWAY,
        lambda place: _lock_of_tunnels(place).rmdir(),
    ),
    "a file stands where the journal belongs": _control(
        _holding("journal", "x"), "journal: Not a directory", AWAY, _away("journal")
    ),
    "the epoch is no number": _control(
        _holding("epoch", "seven"), "epoch holds 'seven'", "write the largest epoch", _epoch
    ),
    "the identity is none": _control(
        _holding("palace_id", "mine"),
        "palace_id does not hold a palace's identity",
        "or remove it",
        _without("palace_id"),
    ),
    "the protocol can't be read": _control(
        _holding("protocol", "newest"),
        "protocol does not say by which protocol",
        "remove it",
        _without("protocol"),
    ),
    "a link stands for the settings": _control(
        _linked,
        "palace.toml is a link",
        "Put the file in the link's place",
        _without("palace.toml"),
    ),
}
