"""Why the last broker that was started, or ran, gave up; and whether its settings still hold."""

import os
from collections.abc import Iterator
from datetime import datetime

from palace.doctor.diagnostics import Diagnostics
from palace.doctor.finding import WARNING, Finding
from palace.kernel.logline import fields_of
from palace.kernel.odd_files import open_regular
from palace.kernel.wall import wall_s
from palace.settings.stock_config import config_file

TAIL_BYTES = 65_536
_BEGIN = "palace: epoch "
_FAILED = ("the engine could not be loaded",)


def check_starts(found: Diagnostics) -> Iterator[Finding]:
    """Yield what the log says of the last start, or what changed since the running one."""
    if found.foreign is not None:
        return
    if found.holder is None:
        last = _last_failure(_tail(found.paths.log))
        if last:
            yield Finding(
                level=WARNING,
                code="last_start",
                text=f"The last broker gave up at {last['time']}: {last['text']}",
                remedy=f"Do what it says; the next request then starts another. More: "
                f"palace logs -n 20 --palace {found.paths.root}",
            )
    elif found.record is not None:
        yield from _changed(found)


def _tail(path: str) -> list[str]:
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _last_failure(lines: list[str]) -> dict[str, str]:
    """Return the fields of the line by which the last broker gave up, {} where it did not."""
    failure: dict[str, str] = {}
    for line in lines:
        fields = fields_of(line)
        text = fields.get("text", "")
        if text.startswith(_BEGIN):
            failure = {}
        elif fields.get("level") == "error" and (
            fields.get("logger") == "palace.serve" or text.startswith(_FAILED)
        ):
            failure = {"time": fields.get("time", "?"), "text": _with_cause(text, fields)}
    return failure


def _with_cause(text: str, fields: dict[str, str]) -> str:
    """Return what a line says, with the error that it names beside its text."""
    _, _, cause = fields.get("error", "").partition(": ")
    return f"{text}: {cause}" if cause else text


def _changed(found: Diagnostics) -> Iterator[Finding]:
    assert found.record is not None
    try:
        began_s = datetime.fromisoformat(found.record.started_at).timestamp()
    except ValueError:
        return
    directory = found.config.config_dir if found.config else ""
    named = [found.user_settings, config_file(directory) if directory else ""]
    for path in (found.paths.settings, *filter(None, named)):
        try:
            changed_s = os.stat(path).st_ctime  # a file that is put in place keeps its mtime
        except OSError:
            continue
        # The record has whole seconds.  What is of the future: the clock was set back.
        if began_s + 1 < changed_s <= wall_s() + 1:
            yield Finding(
                level=WARNING,
                code="settings_changed",
                text=f"{path} was changed after the running broker had read it (pid "
                f"{found.record.pid}, since {found.record.started_at}): it goes on with the old "
                "settings.",
                remedy="Let the next broker read it: palace stop",
            )
