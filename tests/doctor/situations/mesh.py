"""A palace that has peers in mempalace's mesh."""

import json
from collections.abc import Callable

from palace.commands.config import change_settings
from palace.doctor.finding import ERROR, WARNING
from palace.settings.environment import ShimEnvironment
from tests.doctor.situations.place import KERNEL, Place, Situation


def peers(*listed: object) -> Callable[[Place], None]:
    def arrange(place: Place) -> None:
        (place.palace / "peers.json").write_text(json.dumps({"peers": listed}))

    return arrange


def without(place: Place) -> None:
    (place.palace / "peers.json").unlink()


def set_http(place: Place, value: object) -> None:
    change_settings(place.paths, ShimEnvironment(place.environ), {"http": value}, KERNEL)


def unheard(place: Place) -> None:
    peers({"url": "http://a.example", "token": "t"})(place)
    set_http(place, False)


def heard(place: Place) -> None:
    set_http(place, True)


SITUATIONS: dict[str, Situation] = {
    "peers.json can't be understood": Situation(
        arrange=peers({"name": "a"}),
        code="peers_unreadable",
        level=ERROR,
        text="every peer needs a url",
        remedy="peers.json, or remove it",
        heal=without,
    ),
    "peers can't pull from a palace that doesn't listen": Situation(
        arrange=unheard,
        code="mesh_unreachable",
        level=WARNING,
        text="http = false",
        remedy="palace config set http=true",
        heal=heard,
    ),
}
