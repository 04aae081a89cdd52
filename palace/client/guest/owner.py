"""The way to the palace that has the right to write our tables, as `palace own --through` keeps it.

Loaded only by shims that a broker has sent there.
"""

from palace.client.guest.fallbacks import Candidate, Fallbacks, wss_candidate
from palace.client.guest.tunnel import TokenRefused, TunnelProblem
from palace.ownership.guest_file import GuestFile
from palace.ownership.owners import owners_directory, read_way, way_path
from palace.protocol.errors import ElectionError, StoreElsewhere
from palace.settings.site import Site


class OwnersWay(Fallbacks):
    """One attempt's ways to that palace's broker; it is asked for by its certificate and token."""

    def __init__(self, site: Site, palace_id: str) -> None:
        super().__init__(site)
        self.palace_id = palace_id
        self._directory = owners_directory(site.paths.root, site.environment.all)

    def candidates(self) -> list[Candidate]:
        """Return the addresses that its file names, in order."""
        way = self._record()
        return [wss_candidate(url) for url in (way.endpoints if way is not None else ())]

    def _record(self) -> GuestFile | None:
        return read_way(self._directory, self.palace_id, self._kernel)

    def _token_refused(self, url: str, *, given: bool) -> TunnelProblem:  # noqa: ARG002
        self._refused = ("", "")  # shown once for each request: another one may be kept by then
        way = self._record()
        named = f"guest {way.name}" if way is not None else "its guest"
        text = (
            f"{url} refused the token of {named}: it was revoked there, or it is for another "
            "palace. There, palace expose guest NAME makes another; here, palace own --through DIR"
        )
        return TokenRefused("forbidden", text)

    def failure(self, why: str) -> ElectionError:
        """Return the error that says why that palace's broker was not reached."""
        way = self._record()
        if way is None:
            text = f"the way to it was removed: {way_path(self._directory, self.palace_id)}"
            where = self.palace_id[:8]
        else:
            text = self._last_problem or why
            where = f"{way.palace} ({self.palace_id[:8]})"
        return StoreElsewhere(
            f"Another palace has the tables that keep the drawers of {self._paths.root}: {where}, "
            f"and its broker was not reached ({text}). Nothing was done. See that it runs there "
            "(palace start), or ask again once it has stopped: this palace serves them then. If "
            "its machine is gone for good: palace stop --hold; palace own --force; palace start"
        )
