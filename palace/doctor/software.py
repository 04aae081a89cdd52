"""Can a broker run here: the engine, and the versions that have served the palace."""

from collections.abc import Iterator

from palace import __version__
from palace.doctor.diagnostics import Diagnostics
from palace.doctor.embedder import embedder_of
from palace.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from palace.engine.durability.pinned import installed_versions, older_than_served, way_on
from palace.engine.versions import check_installed
from palace.ownership.format import Served, decode_served
from palace.protocol.errors import StoreUnavailable, WireError
from palace.settings.embedder import MINILM
from palace.settings.inherited import to_be_fixed
from palace.settings.installation import command_for


def check_software(found: Diagnostics) -> Iterator[Finding]:
    """Yield what is missing here, or too old."""
    yield from _versions(found)
    if found.foreign is None:  # a guest runs no broker
        yield from _engine(found)
        yield from _environment(found)


def _served(data: bytes) -> Served:
    """Return by what a palace was served, by nothing where its file doesn't say."""
    try:
        return decode_served(data)
    except ValueError:
        return Served(0, 0)


def _versions(found: Diagnostics) -> Iterator[Finding]:
    served = _served(found.kernel.read_hint(found.paths.protocol, 200) or b"")
    if served.is_too_new:
        yield Finding(
            level=ERROR,
            code="version_skew",
            text=f"This palace was served by palace {served.by} {served.what_is_new()}: it is too "
            "old for this palace.",
            remedy=f"Upgrade it: {command_for()}. To go back for good, stop the "
            f"newer broker and remove {found.paths.protocol}.",
        )
    elif isinstance(found.silence, WireError):
        yield Finding(
            level=ERROR,
            code="version_skew",
            text=f"The running broker does not understand palace {__version__} here: "
            f"{found.silence.message}.",
            remedy="Bring both to the same version: palace stop with the one that started it, then "
            f"{command_for()}",
        )
    elif found.record is not None and found.holder and found.record.version != __version__:
        yield Finding(
            level=NOTE,
            code="versions_differ",
            text=f"The running broker is palace {found.record.version}, and {__version__} is "
            "installed here; the two understand each other.",
            remedy="None needed. To let the installed version serve: palace stop",
        )


def _engine(found: Diagnostics) -> Iterator[Finding]:
    try:
        check_installed()
    except StoreUnavailable as error:
        text, _, remedy = error.message.partition(". Install ")
        yield Finding(level=ERROR, code="no_engine", text=f"{text}.", remedy=f"Install {remedy}")
        return
    installed = installed_versions()
    if older := older_than_served(found.paths, found.kernel, installed):
        yield Finding(
            level=ERROR,
            code="engine_older",
            text=f"{older}: brokers of this installation open nothing.",
            remedy=way_on(found.paths, found.kernel, installed, _start(found)),
        )
        return
    versions = ", ".join(f"{name} {version}" for name, version in installed.items())
    yield Finding(level=OK, code="installation", text=f"palace {__version__}, {versions}")


def _start(found: Diagnostics) -> str:
    """Return what starts a broker that takes over what others wrote."""
    is_off = found.config is not None and found.config.journal == "off"
    return "palace config set journal=on; palace start" if is_off else "palace start"


def _environment(found: Diagnostics) -> Iterator[Finding]:
    """Name what this environment says and no broker goes by, since it was fixed for all."""
    if found.config is None:
        return
    fixed = found.config.environment
    given = to_be_fixed(found.environ)
    ignored = sorted(name for name, value in given.items() if fixed.get(name) != value)
    if embedder_of(found) == MINILM:  # which is not looked for where those of Hugging Face are
        ignored = [name for name in ignored if not name.startswith("HF_")]
    if ignored:
        yield Finding(
            level=WARNING,
            code="ignored_variables",
            text=f"No broker goes by {', '.join(ignored)} of this environment: "
            "what holds for all sessions was fixed when it was first served.",
            remedy="Unset them, or change it (palace config set environment=NAME=VALUE) and then: "
            "palace stop. Memories that another embedder has stored have to be embedded again.",
        )
