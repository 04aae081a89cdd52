"""How a guest, whose kernel is not the palace's, reaches its broker: the ways, in order.

    1  MEMPALACE_BROKER, as it stands: unix:PATH, wss://HOST:PORT, ssh://[USER@]HOST[:PORT][/PALACE]
    2  the TLS websocket that the record in the palace names (`listen` of its owner)
    3  ssh to the palace's machine (`bridge` of the user's settings), which can also start a broker
    4  none: the palace is not opened, and the message says what would help

The palace's files are read through the mount, and may be a second old there; nothing is written.
Loaded only by shims that need it.
"""

from socket import socket

from palace.client.endpoints import expected_palace_id, published_for_guests
from palace.client.guest.tunnel import TokenRefused, Tunnel, TunnelProblem
from palace.kernel.causes import cause_text
from palace.kernel.kernel import Kernel
from palace.ownership.directory import prepare_private
from palace.ownership.guest_file import GuestFile, guest_path, read_guest_file
from palace.ownership.record import read_record
from palace.protocol.broker_record import BrokerRecord
from palace.protocol.errors import (
    BrokerUnreachable,
    ConfigError,
    ElectionError,
    ForeignKernel,
    LockFailed,
    UnsafePalace,
)
from palace.settings.paths import Paths, runtime_dir
from palace.settings.site import Site
from palace.settings.user_settings import read_toml, read_user_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from palace.client.guest.ssh import Bridge

BRIDGE_KEYS = ("bridge", "bridge_config", "bridge_command")
LISTEN_KEYS = ("listen", "advertise")
NO_WAY = "its record names no address for guests, and no bridge is set"
WSS_S = 15.0
END_S = 3.0
RECORD_S = 5.0  # after which a record that a mount shows is as new as it gets
SSH_S = 150.0  # `palace ensure` may load nothing, but wake a machine up


class Candidate:
    """One way: `patience_s` is how long its WELCOME may take."""

    def __init__(self, url: str, patience_s: float) -> None:
        self.url = url
        self.patience_s = patience_s


class Fallbacks:
    """The ways to one palace's broker, looked up again for each attempt."""

    palace_id = ""  # whose it is, where that is not our own palace

    def __init__(self, site: Site) -> None:
        self._kernel = site.kernel
        self._paths = site.paths
        self._environment = site.environment
        self._bridges: dict[str, Bridge] = {}
        self._remaining: list[Candidate] = []
        self._tunnels: list[Tunnel] = []
        self._last_problem = ""  # why the last candidate failed
        self._refused: tuple[str, str] = ("", "")  # the address and token that were refused last
        self._refused_s = 0.0  # when that was first
        self._had_token = False
        self._tried = False

    def begin(self) -> None:
        """Look the candidates up; raises ConfigError for an address that can't be one."""
        self._remaining = self.candidates()
        self._last_problem = ""

    def open_next(self) -> tuple[socket, Candidate] | None:
        """Set out for the next candidate; return a socket that leads there, None after the last."""
        if not self._remaining:
            return None
        candidate = self._remaining.pop(0)
        self._tried = True
        tunnel = self.open(candidate)
        self._tunnels = [*(old for old in self._tunnels if old.alive), tunnel]
        return tunnel.sock, candidate

    def note_failure(self, *, silent: bool) -> TunnelProblem | None:
        """Note that the last socket ended before WELCOME; return why, where that is final."""
        problem = self._tunnels[-1].problem
        if problem is not None:
            self._last_problem = problem.text
        elif silent:
            self._last_problem = "no WELCOME came in time"
        return problem if problem is not None and problem.final and not self._remaining else None

    def end(self) -> None:
        """Give the tunnels a moment to end what they started."""
        for tunnel in self._tunnels:
            tunnel.join(END_S)

    def candidates(self) -> list[Candidate]:
        """Return the ways to try, in order; raises ConfigError for an address that can't be one."""
        named = self._environment.broker
        if named:
            return [_candidate(named, "MEMPALACE_BROKER")]
        record = self._record()
        found = published_for_guests(record)
        bridge = self.bridge()
        return [_candidate(url, "the record") for url in [*found, *([bridge] if bridge else [])]]

    def bridge(self) -> str:
        """Return the address that the user's settings give for ssh, "" where they give none."""
        return self._settings().get("bridge", "")

    def open(self, candidate: Candidate) -> Tunnel:
        """Set out for a candidate; raises nothing: the tunnel holds the reason where it failed."""
        if candidate.url.startswith("wss://"):
            return Tunnel(lambda near: self._go_wss(near, candidate.url))
        return Tunnel(lambda near: self._go_ssh(near, candidate.url))

    def _go_wss(self, near: socket, url: str) -> None:
        from palace.client.guest.wss import carry_websocket

        record = self._record()
        # The record lies in a directory that others may write to.  It says whom to expect only for
        # the token in it: the user's own goes to the broker that the user has named, which an
        # authority vouches for, and to no address and no certificate of the record's.
        given = self._given_token() if self._environment.broker else ""
        token = given or (record.token if record else "")
        if not token:
            raise self._no_token(url)
        self._had_token = True
        pin = record.fingerprint if record and not given else ""
        if (url, token) != self._refused:
            try:
                carry_websocket(near, url, token, pin)
                return
            except TokenRefused:
                self._refused, self._refused_s = (url, token), self._kernel.monotonic()
        raise self._token_refused(url, given=bool(given))

    def _no_token(self, url: str) -> TunnelProblem:
        """Return what to say where no record holds a token; one that was there may come back.

        A broker that leaves takes its record along, and the next one's has no token before that one
        listens for guests.
        """
        if self._had_token:
            text = (
                f"{url} has no broker now, by {self._paths.record}, and the next one is waited for"
            )
            return TunnelProblem("broker_unreachable", text, final=False)
        text = (
            f"{url} wants a token, and no record of its broker is to be seen at "
            f"{self._paths.record}: mount the palace's directory, or name the token's file "
            "with PALACE_TOKEN_FILE"
        )
        return TunnelProblem("config", text)

    def _token_refused(self, url: str, *, given: bool) -> TunnelProblem:
        """Return what to say of a token that its broker refused, which is not shown to it again.

        A record is read again for a while: a guest's mount may show it a second late.
        """
        if given:
            self._refused = ("", "")  # shown once for each request, since its file may be corrected
            text = (
                f"{url} refused the token in PALACE_TOKEN_FILE={self._environment.token_file}: it "
                "is not that of the broker which runs now. Each broker makes a new one: copy "
                "`token` out of broker.json on the palace's machine"
            )
            return TokenRefused("forbidden", text)
        if read_guest_file(self._paths, self._kernel) is not None:
            self._refused = ("", "")  # shown once for each request: another one may be mounted
            text = (
                f"{url} refused the token in {guest_path(self._paths)}: it was revoked, or it is "
                "for another palace. On the palace's machine, `palace expose` lists its guests, "
                "and `palace expose docker NAME` makes another directory"
            )
            return TokenRefused("forbidden", text)
        waited_s = self._kernel.monotonic() - self._refused_s
        text = (
            f"{url} refused the token in {self._paths.record}: it is an earlier broker's, or "
            "another palace's. Mount the palace that is served there"
        )
        if waited_s < RECORD_S:
            return TokenRefused("forbidden", text, final=False)
        self._refused = ("", "")
        return TokenRefused("forbidden", text)

    def _given_token(self) -> str:
        """Return the token that the user put into a file, for brokers whose record isn't seen."""
        path = self._environment.token_file
        if not path:
            return ""
        data = self._kernel.read_file(path)
        if data is None:
            raise TunnelProblem("config", f"PALACE_TOKEN_FILE={path} does not exist")
        return data.decode(errors="replace").strip()

    def _go_ssh(self, near: socket, url: str) -> None:
        from palace.client.guest.ssh import Bridge, Target

        bridge = self._bridges.get(url)
        if bridge is None:
            settings = self._settings()
            directory = runtime_dir(self._environment.all)
            try:
                prepare_private(
                    directory,
                    self._kernel,
                    called="The directory for ssh's sockets",
                    remedy="Correct or remove it, or name another: XDG_RUNTIME_DIR=DIR",
                )
            except UnsafePalace as error:
                raise TunnelProblem(error.name, error.message) from None
            target = Target(
                url,
                config=self._environment.bridge_config or settings.get("bridge_config", ""),
                command=self._environment.bridge_command
                or settings.get("bridge_command", "palace"),
            )
            expected = expected_palace_id(self._kernel, self._paths)
            bridge = self._bridges[url] = Bridge(target, palace_id=expected, directory=directory)
        bridge.carry(near)

    def _record(self) -> GuestFile | BrokerRecord | None:
        """Return what says where the broker is, and with which token: a guest's own, if any."""
        guest = read_guest_file(self._paths, self._kernel)
        return guest or read_record(self._paths, self._kernel)

    def _settings(self) -> dict[str, str]:
        return bridge_settings(self._paths, self._environment.all, self._kernel)

    def ignored(self) -> str:
        """Say which ways palace.toml names in vain, "" where it names none."""
        path = self._paths.settings
        try:
            lent = read_toml(path, self._kernel)
            mine = self._settings()
        except ConfigError as error:
            return error.message
        here = [key for key in BRIDGE_KEYS if key in lent and lent[key] != mine.get(key)]
        there = [key for key in LISTEN_KEYS if lent.get(key)]
        said = []
        if here:
            said.append(
                f"{', '.join(here)} in {path} count for nothing there, since others may write to "
                f"it: palace config trust --palace {self._paths.root} makes them your settings here"
            )
        if there:
            said.append(
                f"{', '.join(there)} in {path} count for nothing there: palace config trust on the "
                "palace's machine makes them its owner's settings"
            )
        return "; ".join(said)

    def no_way(self) -> str:
        """Say why nothing was tried."""
        ignored = self.ignored()
        return NO_WAY + (f" ({ignored})" if ignored else "")

    def failure(self, why: str) -> ElectionError:
        """Return the error that says why no candidate led to a broker, and what would."""
        from palace.ownership.claim import find_foreign

        problem = self._last_problem
        if self._environment.broker:
            return BrokerUnreachable(
                f"No broker answers at MEMPALACE_BROKER={self._environment.broker}, which is used "
                f"as it stands ({problem or why}). Start the broker there, or unset the variable."
            )
        try:
            foreign = find_foreign(self._paths, self._kernel, self._environment.all)
        except OSError as error:
            return LockFailed(cause_text(error))
        if foreign is None:
            return BrokerUnreachable(
                f"Who owns {self._paths.root} was changed just now (palace own). Ask again."
            )
        tried = problem or self.no_way()
        kind = BrokerUnreachable if self._tried else ForeignKernel  # there is, or was, a way
        return kind(foreign.text(tried), **foreign.details)


def bridge_settings(paths: Paths, environ: "Mapping[str, str]", kernel: Kernel) -> dict[str, str]:
    """Return the user's settings for ssh; raises ConfigError for what can't be understood.

    None are taken from palace.toml: ssh runs what its configuration says.
    """
    user = read_user_settings(paths, environ, kernel)
    found = {key: user.values[key] for key in BRIDGE_KEYS if key in user.values}
    for key, value in found.items():
        if not isinstance(value, str):
            shown = repr(value)[:200]
            raise ConfigError(f"{user.path}: {key} = {shown} must be text. Correct it.")
    return {key: value for key, value in found.items() if isinstance(value, str)}


def wss_candidate(url: str) -> Candidate:
    return Candidate(url, WSS_S)


def _candidate(url: str, where: str) -> Candidate:
    if url.startswith("wss://"):
        return wss_candidate(url)
    if url.startswith("ssh://"):
        return Candidate(url, SSH_S)
    raise ConfigError(
        f"{where} names {url!r}: an address is unix:PATH, wss://HOST:PORT or "
        "ssh://[USER@]HOST[:PORT][/PALACE]."
    )
