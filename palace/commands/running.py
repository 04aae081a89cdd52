"""`palace stop` and `palace start`: a broker is ended, or begun and waited for."""

import sys
import time
from typing import Any

from palace.client.control import Control
from palace.kernel.kernel import Kernel
from palace.kernel.output import redraw
from palace.ownership.served import note_hold
from palace.protocol.errors import (
    BrokerUnreachable,
    ForeignWriter,
    PalaceError,
    StoreUnavailable,
    WireError,
)
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.shim.ensure import ensure

STOP_S = 120.0
WATCH_S = 0.3


def stop_broker(paths: Paths, environment: ShimEnvironment, *, now: bool, hold: bool) -> str:
    """Stop the broker of a palace and wait for it to exit; return what to tell the user."""
    kernel = Kernel()
    if hold:  # first, so that no broker is elected in between
        kernel.write_durable(paths.hold, f"{kernel.utc_text()}\n".encode())
        note_hold(paths, environment.all, kernel, held=True)
    held = " On hold until `palace start`." if hold else ""
    try:
        with Control(paths, environment) as control:
            control.ask("stop", now="1" if now else "0")
            if not control.wait_for_end(STOP_S):
                raise BrokerUnreachable(
                    f"The broker did not exit within {STOP_S:.0f} s: a call is still running. "
                    "See palace status, or end the call: palace stop --now"
                )
    except BrokerUnreachable as error:
        holder = kernel.lock_holder(paths.lock)
        heard = not (error.details.get("absent") or error.details.get("silent"))
        if holder is not None and not heard:
            raise BrokerUnreachable(
                f"{error.message} Its lock is still held by pid {holder}. If that is exiting, it "
                f"waits for a call to finish; otherwise end it: kill {holder}"
            ) from None
        if not hold:
            raise
        if error.details.get("absent"):
            return f"No broker runs for {paths.root}.{held}"
        raise _still_running(error) from None
    except WireError as error:  # one of another version
        if hold:
            raise _still_running(error) from None
        raise
    return f"Stopped.{held}"


def _still_running(error: PalaceError) -> BrokerUnreachable:
    """Return the error for a hold that was noted while a broker runs that could not be stopped."""
    return BrokerUnreachable(
        f"{error.message} No other broker will start until `palace start`, but this one was not "
        "stopped: see palace status"
    )


def start_broker(paths: Paths, environment: ShimEnvironment) -> str:
    """End a hold, start a broker unless one runs, and wait until it has opened the palace.

    Returns what to tell the user.  Raises ForeignWriter where another program has the stores,
    StoreUnavailable where they can't be opened, BrokerUnreachable where the broker has left again.
    """
    kernel = Kernel()
    released = kernel.unlink(paths.hold)
    note_hold(paths, environment.all, kernel, held=False)
    note = "the hold is over; " if released else ""
    try:
        record = ensure(paths, environment)
    except BrokerUnreachable as error:
        if not error.details.get("admitted"):
            raise
        return f"{note}a broker of its owner's serves {paths.root}"
    try:
        _await_engine(paths, environment, record.pid)
    except KeyboardInterrupt:  # the broker goes on by itself
        return f"{note}pid {record.pid} is still opening {paths.root}: see palace status"
    return f"{note}pid {record.pid} serves {paths.root}, epoch {record.epoch}"


def _await_engine(paths: Paths, environment: ShimEnvironment, pid: int) -> None:
    """Wait until a broker's engine is ready; on a terminal, show what it is doing."""
    shown = 0
    try:
        while (engine := _engine(paths, environment, pid))["state"] != "ready":
            if engine["failure"]:
                raise _not_opened(engine, pid, paths)
            if sys.stderr.isatty():
                doing = str(engine["doing"])
                redraw(doing, width=shown)
                shown = len(doing)
            time.sleep(WATCH_S)
    finally:
        if shown:
            redraw("", width=shown, end="\r")


def _engine(paths: Paths, environment: ShimEnvironment, pid: int) -> dict[str, Any]:
    try:
        with Control(paths, environment) as control:
            engine: dict[str, Any] = control.status()["engine"]
    except BrokerUnreachable as error:
        if not error.details.get("absent"):
            raise
        raise BrokerUnreachable(
            f"Pid {pid} was started, and has left again before it had opened {paths.root}: "
            f"{error.message} Its last words: palace logs"
        ) from None
    return engine


def _not_opened(engine: dict[str, Any], pid: int, paths: Paths) -> PalaceError:
    failure = str(engine["failure"])
    if engine["state"] == "waiting":
        return ForeignWriter(f"Pid {pid} runs, and opens {paths.root} as soon as it may. {failure}")
    return StoreUnavailable(failure)
