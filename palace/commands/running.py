"""`palace stop` and `palace start`: ending the broker, a hold, and waiting for a new one."""

import sys
import time

from palace.client.control import Control
from palace.kernel.kernel import Kernel
from palace.kernel.output import redraw
from palace.ownership.served import note_hold
from palace.protocol.errors import BrokerUnreachable, ForeignWriter, PalaceError, WireError
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
    """End a hold and start a broker unless one runs; return what to tell the user."""
    kernel = Kernel()
    released = kernel.unlink(paths.hold)
    note_hold(paths, environment.all, kernel, held=False)
    record = ensure(paths, environment)
    watch_loading(paths, environment)
    waiting = _waiting(paths, environment)
    if waiting:
        raise ForeignWriter(
            f"Pid {record.pid} runs, and opens {paths.root} as soon as it may. {waiting}"
        )
    note = "the hold is over; " if released else ""
    return f"{note}pid {record.pid} serves {paths.root}, epoch {record.epoch}"


def watch_loading(paths: Paths, environment: ShimEnvironment) -> None:
    """On a terminal, show what a broker that was just started is doing until it is ready."""
    if not sys.stderr.isatty():
        return
    shown = 0
    try:
        while (doing := _loading(paths, environment)) is not None:
            redraw(doing, width=shown)
            shown = len(doing)
            time.sleep(WATCH_S)
    except (KeyboardInterrupt, BrokerUnreachable):
        pass  # the broker goes on by itself
    if shown:
        redraw("", width=shown, end="\r")


def _waiting(paths: Paths, environment: ShimEnvironment) -> str:
    """Return what keeps a broker from opening its store, once it no longer waits in patience."""
    try:
        while True:
            with Control(paths, environment) as control:
                engine = control.status()["engine"]
            if engine["state"] != "waiting" or engine["failure"]:
                return str(engine["failure"]) if engine["state"] == "waiting" else ""
            time.sleep(WATCH_S)
    except BrokerUnreachable:
        return ""  # it has left again, which the next request finds out


def _loading(paths: Paths, environment: ShimEnvironment) -> str | None:
    with Control(paths, environment) as control:
        engine = control.status()["engine"]
    return str(engine["doing"]) if engine["state"] == "loading" else None
