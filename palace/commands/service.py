"""`palace service`: a broker that is started at login and stays, kept by systemd or launchd.

Most users don't need it, since shims start brokers by themselves.  It is for guests over TLS, which
can't, and for users who don't want the first request to wait.  The unit runs an ordinary broker
that never exits when idle; if another process holds the lock, that stays the owner, and the unit's
broker tries again a minute later.  Why systemd does not listen for it:
docs/decisions/0014-no-socket-activation.md.
"""

import hashlib
import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Mapping

import attrs

from palace.client.control import Control
from palace.kernel.kernel import Kernel
from palace.mcp_hosts.commands import find_program
from palace.ownership import lock
from palace.protocol.errors import BrokerUnreachable, ConfigError, PalaceError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths, home_dir, python_command

RETRY_S = 60  # after a death, and while another process owns the palace
STOP_S = 150  # the grace for running calls, closing the store, and last words
# Exit codes (docs/reference/exit-codes.md) of failures that only a person can resolve.
FOR_A_PERSON = (72, 76, 77, 78, 79)
MANAGER_S = 60.0
_PASSED_ON = ("MEMPALACE_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
_MARK = "Written by `palace service install`"


@attrs.frozen(kw_only=True)
class Service:
    """The unit of one palace: its name, its file, and what runs."""

    palace: str
    argv: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    name: str
    file: str
    launchd: bool

    def text(self) -> str:
        """Return the file's text, with a digest that shows whether it has been edited since."""
        return _launchd_text(self) if self.launchd else _systemd_text(self)


def service_of(
    paths: Paths, environ: Mapping[str, str], *, platform: str = sys.platform
) -> Service:
    """Return the unit for a palace, on this system or on another."""
    digest = hashlib.sha256(os.fsencode(paths.root)).hexdigest()[:12]
    home = home_dir(environ)
    config = environ.get("XDG_CONFIG_HOME", "")
    units = config if config.startswith("/") else f"{home}/.config"
    launchd = platform == "darwin"
    name = f"palace.broker.{digest}" if launchd else f"palace-broker-{digest}.service"
    found = find_program("palace", environ)
    words = [found] if found else python_command()
    passed_on = [(key, environ[key]) for key in _PASSED_ON if environ.get(key)]
    return Service(
        palace=paths.root,
        argv=(
            *words,
            "serve",
            f"--palace={paths.root}",
            f"--found-by={paths.found_by}",
            "--detached",  # from the manager's descriptors: it logs into the palace, as always
        ),
        variables=(("PALACE_IDLE_S", "0"), *passed_on),
        name=name,
        file=(
            f"{home}/Library/LaunchAgents/{name}.plist"
            if launchd
            else f"{units}/systemd/user/{name}"
        ),
        launchd=launchd,
    )


def _systemd_text(service: Service) -> str:
    variables = "\n".join(f"Environment={_quoted(f'{k}={v}')}" for k, v in service.variables)
    body = f"""[Unit]
Description=palace broker of {service.palace.replace("%", "%%")}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={" ".join(_quoted(word, command=True) for word in service.argv)}
{variables}
Restart=on-failure
RestartSec={RETRY_S}
RestartPreventExitStatus={" ".join(map(str, FOR_A_PERSON))}
TimeoutStopSec={STOP_S}

[Install]
WantedBy=default.target
"""
    return f"# {_mark(body)}\n{body}"


def _quoted(word: str, *, command: bool = False) -> str:
    """Quote a word for systemd, which expands % everywhere and $ in command lines."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if command else escaped}"'


def _launchd_text(service: Service) -> str:
    body = plistlib.dumps(
        {
            "Label": service.name,
            "ProgramArguments": list(service.argv),
            "EnvironmentVariables": dict(service.variables),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RETRY_S,
            "ExitTimeOut": STOP_S,
        },
        sort_keys=False,
    ).decode()
    head, _, rest = body.partition("<plist")
    return f"{head}<!-- {_mark(body)} -->\n<plist{rest}"


def _mark(body: str) -> str:
    return f"{_MARK}, {hashlib.sha256(body.encode()).hexdigest()[:16]}"


def _is_untouched(text: str) -> bool:
    """Tell whether a file was written by any version of palace and has not been edited since."""
    rows = text.splitlines(keepends=True)
    marked = [row for row in rows if _MARK in row]
    body = "".join(row for row in rows if _MARK not in row)
    return len(marked) == 1 and _mark(body) in marked[0]


def install_service(paths: Paths, environment: ShimEnvironment, *, force: bool = False) -> str:
    """Write the unit, and start it if its manager answers; return what to tell the user."""
    kernel = Kernel()
    lock.check_directory(paths, kernel, environment.all)  # a unit that can never run is no help
    service = service_of(paths, environment.all)
    present = _read(service, kernel)
    if present is not None and not _is_untouched(present) and not force:
        raise ConfigError(_changed_text(service))
    text = service.text()
    said = f"{service.file} is there already."
    if present != text:
        os.makedirs(os.path.dirname(service.file), exist_ok=True)
        kernel.write_durable(service.file, text.encode(), 0o644)
        said = f"Written: {service.file}"
    problem = _ask_manager(environment.all, _starting(service))
    if problem:
        commands = "\n".join(f"  {' '.join(words)}" for words in _starting(service))
        return f"{said}\nIt was not started ({problem}). Start it in a login session:\n{commands}"
    return f"{said}\nIt is started now and at every login; for boot: loginctl enable-linger"


def uninstall_service(paths: Paths, environment: ShimEnvironment, *, force: bool = False) -> str:
    """Stop and remove the unit; return what to tell the user."""
    kernel = Kernel()
    service = service_of(paths, environment.all)
    present = _read(service, kernel)
    if present is None:
        return f"{service.file} does not exist: nothing to remove."
    if not _is_untouched(present) and not force:
        raise ConfigError(_changed_text(service))
    _ask_manager(environment.all, [_stopping(service)])
    directory = os.path.dirname(service.file)
    if not service.launchd:  # what `disable` does, for when no manager answered
        link = f"{directory}/default.target.wants/{service.name}"
        if os.path.islink(link) and os.path.realpath(link) == os.path.realpath(service.file):
            kernel.unlink(link)
    kernel.unlink(service.file)
    if not service.launchd:
        _ask_manager(environment.all, _starting(service)[:1])
    return f"Removed: {service.file}. Shims start brokers on demand, as always."


def _changed_text(service: Service) -> str:
    return (
        f"{service.file} has been edited since `palace service install` wrote it, so it was left "
        "alone. Save what you need of it, and repeat this with --force."
    )


def _read(service: Service, kernel: Kernel) -> str | None:
    data = kernel.read_file(service.file)
    return None if data is None else data.decode(errors="replace")


def _starting(service: Service) -> list[list[str]]:
    if service.launchd:
        return [["launchctl", "bootstrap", f"gui/{os.getuid()}", service.file]]
    return [
        ["systemctl", "--user", "daemon-reload"],
        ["systemctl", "--user", "enable", "--now", service.name],
    ]


def _stopping(service: Service) -> list[str]:
    if service.launchd:
        return ["launchctl", "bootout", f"gui/{os.getuid()}/{service.name}"]
    return ["systemctl", "--user", "disable", "--now", service.name]


def _ask_manager(environ: Mapping[str, str], commands: list[list[str]]) -> str:
    """Run commands of the service manager; return why one failed, "" if none did."""
    for words in commands:
        code, said = _run(words, environ)
        if code:
            return f"{words[0]}: {said or f'exit code {code}'}"
    return ""


def service_status(paths: Paths, environment: ShimEnvironment) -> tuple[str, bool]:
    """Return whether the unit exists, what its manager says, and which process owns the palace.

    The second value tells whether the unit is installed.
    """
    kernel = Kernel()
    service = service_of(paths, environment.all)
    present = _read(service, kernel)
    state = "absent (palace service install)"
    if present is not None:
        state = "installed" if _is_untouched(present) else "installed, and edited since"
    try:
        with Control(paths, environment) as control:
            status = control.status()
        owner = f"pid {status['pid']}, epoch {status['epoch']}"
    except (BrokerUnreachable, PalaceError) as error:
        owner = error.message
    rows = [
        f"unit     {service.file}: {state}",
        f"manager  {_manager_says(service, environment.all)}",
        f"broker   {owner}",
    ]
    return "\n".join(rows), present is not None


def _manager_says(service: Service, environ: Mapping[str, str]) -> str:
    words = ["systemctl", "--user", "is-active", service.name]
    if service.launchd:
        words = ["launchctl", "print", f"gui/{os.getuid()}/{service.name}"]
    code, said = _run(words, environ)
    if service.launchd:
        return "not loaded" if code else "loaded"
    return said or "no answer"


def _run(words: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run a command of the service manager; return its exit code and its last line."""
    program = shutil.which(words[0], path=environ.get("PATH", ""))
    if program is None:
        return 127, f"there is no {words[0]} here"
    try:
        done = subprocess.run(
            [program, *words[1:]],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MANAGER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {MANAGER_S:.0f} s"
    rows = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.returncode, rows[-1] if rows else ""
