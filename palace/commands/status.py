"""`palace status`: once, or once a second until ctrl-C.

On a terminal each status replaces the one before it, in the terminal's alternate screen, which is
left again however the command ends. In a pipe each is a block followed by an empty line.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from palace.client import control
from palace.commands.status_text import status_text
from palace.kernel.kernel import Kernel
from palace.kernel.output import ENTER_SCREEN, LEAVE_SCREEN, say, show_screen, switch_screen
from palace.protocol.errors import BrokerUnreachable
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths

WATCH_S = 1.0


def ask_status(paths: Paths, environment: ShimEnvironment) -> tuple[dict[str, Any], int]:
    """Return the status, with `running`, and an exit code; takes at most control.STATUS_S.

    If no broker answers, the status is what record, lock and hold say, with a `text` for people.
    """
    try:
        with control.Control(paths, environment, answer_s=control.STATUS_S) as asking:
            return asking.status() | {"running": True}, 0
    except BrokerUnreachable as error:
        status = control.known_without_answer(paths, Kernel(), error)
        absent = bool(error.details.get("absent"))
        return status | _why(paths, environment, status) if absent else status, error.exit_code


def _why(paths: Paths, environment: ShimEnvironment, status: dict[str, Any]) -> dict[str, Any]:
    """Return why there is no broker, as the doctor says it, and the text with it."""
    from palace.doctor.examine import why_no_broker  # 50 ms, of which a running broker needs none

    findings = why_no_broker(paths, environment)
    why = [{"code": one.code, "text": one.text, "remedy": one.remedy} for one in findings]
    lines = [f"{one.text}\n  -> {one.remedy}" for one in findings]
    return {"why": why, "text": "\n".join([status["text"], *lines])}


def print_status(paths: Paths, environment: ShimEnvironment, *, as_json: bool) -> int:
    """Print the status once; return the exit code."""
    status, code = ask_status(paths, environment)
    say(json.dumps(status) if as_json else _text(paths, status))
    return code


def _text(paths: Paths, status: dict[str, Any]) -> str:
    """Return a status for people, with what waits for them to decide."""
    kernel, text = Kernel(), text_of(status)
    if not kernel.file_id(paths.candidates):
        return text
    from palace.doctor.federation import remotes_line  # of whom there are none but for few

    return "\n".join(filter(None, (text, remotes_line(paths, kernel))))


def watch_status(paths: Paths, environment: ShimEnvironment, *, as_json: bool) -> int:
    """Print the status once a second until ctrl-C; return 0."""
    live = sys.stdout.isatty() and not as_json
    try:
        with _screen() if live else nullcontext():
            while True:
                status, _ = ask_status(paths, environment)
                if live:
                    show_screen(_text(paths, status), *_size())
                else:
                    say(json.dumps(status) if as_json else _text(paths, status) + "\n")
                sys.stdout.flush()
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return 0


def _size() -> tuple[int, int]:
    """Return the terminal's current columns and lines; COLUMNS and LINES would be stale."""
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    return columns or 80, lines or 24


def text_of(status: dict[str, Any]) -> str:
    """Return what `ask_status` returned as a screen of text."""
    return status_text(status) if status["running"] else str(status["text"])


@contextmanager
def _screen() -> Iterator[None]:
    """Use the alternate screen; it is left on SIGTERM and SIGHUP as well."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    switch_screen(ENTER_SCREEN)
    try:
        yield
    finally:
        switch_screen(LEAVE_SCREEN)
        sys.stdout.flush()
