"""`palace serve`: from the command line to a running owner, and out again with an exit code.

Order is everything here: the lock comes before any heavy import, so that a process that loses the
election has cost next to nothing, and before any thread, so that the umask of the bind is no
other thread's.
"""

import os

from palace import __version__
from palace.broker.telemetry.log_file import open_log
from palace.kernel.collector import imports_uncollected
from palace.kernel.factory import kernel_for
from palace.kernel.kernel import Kernel
from palace.kernel.logline import log_line
from palace.ownership import lock, place, served
from palace.ownership.data_locks import take_data_locks
from palace.protocol import wire
from palace.protocol.errors import (
    ConfigError,
    ForeignWriter,
    LockFailed,
    LockHeld,
    OnHold,
    PalaceError,
    StoreUnavailable,
)
from palace.settings.environment import read_environment
from palace.settings.given_path import GivenPath
from palace.settings.paths import Paths, find_palace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from palace.broker.endpoint import Endpoint
    from palace.broker.life import Life
    from palace.settings.config import Config


class Options:
    """What the command line of `palace serve` says."""

    __slots__ = ("check", "detached", "direct_fd", "found_by", "palace", "report_fd")

    def __init__(self) -> None:
        self.palace = ""
        self.found_by = ""
        self.check = False
        self.detached = False
        self.report_fd = -1
        self.direct_fd = -1


def parse_options(arguments: "list[str]") -> Options:
    """Read the arguments after `serve`; raises ConfigError for anything else."""
    options = Options()
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name in ("--check", "--detached"):
            setattr(options, name[2:], True)
            continue
        if name not in ("--palace", "--found-by", "--report-fd", "--direct-fd"):
            raise ConfigError(f"palace serve: unknown argument {name!r}. See: palace serve --help")
        if not equals:
            if not rest:
                raise ConfigError(f"palace serve: {name} needs a value. See: palace serve --help")
            value = rest.pop(0)
        if name == "--palace" and not value:
            GivenPath(value, name)  # which refuses it: an empty one is not the default
        field = name[2:].replace("-", "_")
        if field.endswith("_fd") and not value.isdigit():
            raise ConfigError(f"palace serve: {name} needs a number. See: palace serve --help")
        setattr(options, field, int(value) if field.endswith("_fd") else value)
    return options


class Report:
    """The one line by which a started broker tells its starter how it went.

    `detached` says that its standard error is its log.
    """

    def __init__(self, fd: int, *, detached: bool = False) -> None:
        self._fd = fd
        if fd >= 0:
            os.set_inheritable(fd, False)  # its end is ours, not that of a child of ours
        self._sent = False
        self.detached = detached

    @property
    def wanted(self) -> bool:
        return self._fd >= 0 and not self._sent

    def send(self, kind: str, fields: "dict[str, str]") -> None:
        """Send it, once; the descriptor stays open, since its end tells the starter of ours."""
        if self._sent or self._fd < 0:
            return
        self._sent = True
        try:
            os.write(self._fd, wire.encode_header(kind, fields))
        except OSError:
            pass  # the starter is gone, which changes nothing for the broker


class Startup:
    """What a broker begins with: its command line, its environment, and its starter's report.

    `ignored` says which settings in palace.toml don't count, once they are read; `life` is told
    what becomes of it, once it has an epoch.
    """

    __slots__ = ("environ", "ignored", "kernel", "life", "options", "report")

    def __init__(
        self, options: Options, report: Report, environ: "Mapping[str, str]", kernel: Kernel
    ) -> None:
        self.options = options
        self.report = report
        self.environ = environ
        self.kernel = kernel
        self.ignored = ""
        self.life: Life | None = None


def main(arguments: "list[str]") -> int:
    """Run a broker; return its exit code (docs/reference/exit-codes.md)."""
    report, kernel = Report(-1), Kernel()
    try:
        environment = read_environment()
        kernel = kernel_for(environment.trace)
        options = parse_options(arguments)
        report = Report(options.report_fd, detached=options.detached)
        if options.check:
            return _check(Startup(options, report, environment.all, kernel))
        return _serve(Startup(options, report, environment.all, kernel))
    except PalaceError as error:
        return _fail(report, error, kernel)
    except ImportError as error:
        text = (
            f"A part of palace can't be loaded: {error}. Either the installation is damaged, or "
            "the process may open too few files: see `ulimit -n`."
        )
        return _fail(report, StoreUnavailable(text), kernel)
    except OSError as error:
        from palace.kernel.causes import cause_text

        return _fail(report, LockFailed(cause_text(error)), kernel)


def _check(startup: Startup) -> int:
    """Say whether a broker of a palace could serve with what is installed: load it, open nothing.

    One whose mempalace was replaced asks.  Without a palace, versions alone are looked at.
    """
    from palace.engine.versions import check_installed
    from palace.settings.config import load_config

    options, environ, kernel = startup.options, startup.environ, startup.kernel
    try:
        check_installed()
        if options.palace:
            from palace.engine.hosting.mempalace import MempalaceEngine

            paths = Paths(options.palace, found_by=options.found_by or "--palace")
            MempalaceEngine(paths, load_config(paths, environ, kernel), environ, kernel).check()
    except PalaceError as error:
        say(f"palace serve: {error.message}", startup.report, kernel)
        return error.exit_code
    return 0


def _fail(report: Report, error: PalaceError, kernel: Kernel) -> int:
    kernel.trace(_last_act(error))  # before the end of the process: that releases the lock
    quiet = report.wanted and isinstance(error, LockHeld)  # losing an election is no news
    fields = {"error": error.name, "text": error.message, "exit": str(error.exit_code)}
    report.send(wire.FAILED, fields)
    if not quiet:
        say(f"palace serve: {error.message}", report, kernel)
    return error.exit_code


def _last_act(error: PalaceError) -> str:
    """Return by which step of the protocol a process gives up."""
    if isinstance(error, LockHeld) and not isinstance(error, lock.LockReplaced):
        return "B2.lost"
    if isinstance(error, OnHold):
        return "B3.held"
    return "B4.foreign" if isinstance(error, ForeignWriter) else "fault"


def say(text: str, report: Report, kernel: Kernel, *, level: str = "error") -> None:
    """Write a line to standard error; a full disk under the log must not end a broker."""
    if report.detached:
        fields = {"time": kernel.utc_text(), "level": level, "logger": "palace.serve"}
        text = log_line(fields | {"pid": str(os.getpid()), "text": text})
    try:
        os.write(2, text.encode(errors="backslashreplace") + b"\n")
    except OSError:
        return


def _serve(startup: Startup) -> int:
    options, environ, kernel = startup.options, startup.environ, startup.kernel
    os.umask(0o077)  # whatever its starter's: what a broker makes is its user's alone
    if options.detached and startup.report.wanted:
        # Started by a shim: a host that ends all descendants of its agent must not end this.  What
        # a service manager starts stays its child, else that doesn't know whom to stop.
        kernel.leave_parent()
    # Before anything else: from here to its next step this process may be seen to hold the lock.
    kernel.trace("B1.open", direct=int(options.direct_fd >= 0))
    if options.found_by:  # a shim has found it for us
        paths = Paths(options.palace, found_by=options.found_by)
    else:
        paths = find_palace(options.palace, environ)
    served.check_there(paths, environ, kernel)  # before a directory is made in its place
    lock.check_directory(paths, kernel, environ)
    if options.detached:
        # Before the lock is taken: of all descriptors it leaves open a few, and not a lock's.
        _detach(paths, keep=options.report_fd)
    ownership = lock.take_lock(paths, kernel)  # B1..B3
    lock.check_hold(paths, kernel)
    os.chdir("/")  # libraries read files of the current directory (.env), which is a session's
    if served.check_remembered_hold(paths, environ, kernel) is not None:
        from palace.engine.durability.bring_back import bring_back

        say(bring_back(ownership, environ, kernel), startup.report, kernel, level="warning")
    try:
        return _run(startup, ownership, *_become_owner(startup, ownership))
    except (PalaceError, ImportError, OSError) as error:
        if startup.life is not None:
            startup.life.refused(error)
        raise


def _detach(paths: Paths, *, keep: int) -> None:
    """Leave the starter's session and descriptors behind; log into the palace."""
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        if fd > 2 and fd != keep:
            try:
                os.close(fd)  # what sshd or an MCP host left open would keep its reader waiting
            except OSError:
                continue  # the descriptor of this very listing
    open_log(paths.log, rotate=False)  # else losers of an election would put their owner's away
    if os.getsid(0) != os.getpid():
        try:
            os.setsid()
        except PermissionError:
            pass  # the leader of a process group: a terminal's own shell started us


def _become_owner(startup: Startup, ownership: lock.Ownership) -> "tuple[Config, lock.Fence]":
    from importlib import import_module

    from palace.engine.versions import check_installed

    check_installed()  # before what the wheel for shims lacks
    with imports_uncollected():
        import_module("palace.broker.assemble")  # with nearly all that a broker is
    from palace.broker.life import Life
    from palace.settings.config import adopt, ignored_text, load_settings
    from palace.settings.inherited import broker_environment

    kernel = startup.kernel
    loaded = load_settings(ownership.paths, startup.environ, kernel)
    config = loaded.config
    if loaded.ignored:
        startup.ignored = ignored_text(loaded.ignored, ownership.paths)
        say(startup.ignored, startup.report, kernel, level="warning")
    environ = startup.environ = broker_environment(startup.environ, config.environment)
    kernel.replace_environment(environ)
    fence = lock.Fence(ownership, config, environ, kernel)  # B4
    fence.take()  # else a stock process has it: clients are served meanwhile, and the store is shut
    take_data_locks(ownership, config, environ, kernel)
    ownership.memory = place.take_place(ownership, environ, kernel, serves=True)  # B5
    startup.life = life = Life(kernel=kernel)
    life.begin(ownership, __version__)
    adopt(ownership.paths, loaded, environ, kernel)
    return config, fence


def _run(startup: Startup, ownership: lock.Ownership, config: "Config", fence: lock.Fence) -> int:
    from functools import partial

    import trio

    from palace.broker import endpoint as endpoints
    from palace.broker.assemble import assemble, catalogue_at_start, reading_of
    from palace.broker.broker import Broker
    from palace.broker.holdings import log_holding, private_holdings
    from palace.broker.services import Listening
    from palace.broker.telemetry.logs import set_up_logging

    report, environ, kernel = startup.report, startup.environ, startup.kernel
    set_up_logging(config.log_level, kernel, path=ownership.paths.log if report.detached else "")
    direct = _direct_socket(startup.options.direct_fd)
    mode = "direct" if direct is not None else "broker"
    try:
        listener: Endpoint | None = endpoints.listen(  # B6
            ownership, environ, kernel, shared=bool(config.allow_uids)
        )
    except PalaceError:
        if direct is None:
            raise
        kernel.trace("B6.deaf")
        listener = None  # degraded: it serves its own client alone
    state = assemble(ownership, config, environ, kernel, Listening(listener, mode))
    catalogue = catalogue_at_start(ownership.paths, kernel)
    if catalogue is not None:
        state.services.catalogue = catalogue.served(extras=config.mcp_extras)
    state.services.ignored = startup.ignored
    if report.detached:
        state.watch.add(log_holding(ownership.paths.log, kernel))
    life = state.services.life = startup.life or state.services.life
    for holding in private_holdings(ownership, environ, kernel):
        state.watch.add(holding)

    def say_serving() -> None:
        life.served()
        report.send(wire.SERVING, {"pid": str(os.getpid())})
        where = listener.path if listener else "no socket, for its own client only"
        degraded = " (degraded: direct)" if mode == "direct" else ""
        text = f"palace: epoch {ownership.epoch} of {ownership.paths.root} on {where}{degraded}"
        say(text, report, kernel, level="info")

    reading = None if fence.taken else reading_of(state, environ)
    broker = Broker(state, fence=fence, reading=reading)
    if config.canary:
        life.arm(ownership.palace_id, log_path=ownership.paths.log if report.detached else "")
    else:
        life.skip()
    try:
        code = trio.run(partial(broker.serve, direct=direct, on_serving=say_serving))
    except BaseException as error:
        if not isinstance(error, (PalaceError, ImportError, OSError)):  # those are told by `_serve`
            life.broke(error)
        raise
    # X6: the process's end releases the lock.  Threads that native code holds must not delay it.
    kernel.trace("X6.exit", status=code)  # before it: the next owner's line must come later
    life.left()
    os._exit(code)


def _direct_socket(fd: int) -> "socket.socket | None":
    if fd < 0:
        return None
    import socket

    return socket.socket(fileno=fd)
