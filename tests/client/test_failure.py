"""What a client is told at the end of an attempt: what happened, to what, and what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from palace.client.failure import ERRORS, failure_of
from palace.kernel.kernel import Kernel
from palace.protocol import election
from palace.protocol.errors import BrokerUnreachable, ElectionError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import SUN_PATH_BYTES_MAX, Paths
from palace.settings.site import Site
from tests.support.machines.needs import need_root


def told(name: str, text: str, **environ: str) -> str:
    site = Site(Kernel(), Paths("/p"), ShimEnvironment(environ))
    return failure_of(name, text, site, patience_s=30.0).message


def test_a_socket_whose_path_is_too_long_is_not_said_to_be_silent() -> None:
    path = "/" + "x" * (SUN_PATH_BYTES_MAX - 1)
    assert "No broker answers at" in told("no_spawn", "absent", MEMPALACE_BROKER=f"unix:{path}")
    text = told("no_spawn", "absent", MEMPALACE_BROKER=f"unix:{path}x")

    assert f"{path}x is longer than a socket's path may be" in text
    assert "palace status --palace /p" in text
    web = told("no_spawn", "absent", MEMPALACE_BROKER=f"wss://host{path}")
    assert f"No broker answers at MEMPALACE_BROKER=wss://host{path}" in web


def test_where_nobody_may_start_one_the_remedy_is_named() -> None:
    absent = told("no_spawn", election.ABSENT)
    silent = told("no_spawn", election.SILENT)

    assert absent.startswith("No broker runs for /p, and PALACE_NO_SPAWN forbids starting one.")
    assert silent.startswith("The broker is silent for /p")
    assert "palace serve --palace /p" in absent


@pytest.mark.parametrize(
    ("text", "shown"), [("it is odd", "It is odd"), ("ssh://host is odd", "ssh://host is odd")]
)
def test_a_text_is_a_sentence_and_an_address_stays_as_it_is(text: str, shown: str) -> None:
    assert told("on_hold", text) == shown


def test_each_end_has_its_error() -> None:
    site = Site(Kernel(), Paths("/p"), ShimEnvironment({}))
    for name, kind in ERRORS.items():
        error = failure_of(name, "why", site, patience_s=1.0)
        assert type(error) is kind
    unknown = failure_of("something_new", "why", site, patience_s=1.0)
    assert type(unknown) is ElectionError
    for name in ("broker_unreachable", "no_spawn"):
        assert type(failure_of(name, "silent", site, patience_s=1.0)) is BrokerUnreachable


@pytest.mark.process
@pytest.mark.parametrize("wrapper", [["unshare", "--mount"], []])
def test_an_owner_that_cant_be_reached_from_here_is_told_as_such(
    tmp_path: Path, wrapper: list[str]
) -> None:
    need_root()
    site = Site(Kernel(), Paths(str(tmp_path)), ShimEnvironment({}))
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2)"
    hold += "; print(1, flush=True); input()"
    argv = [*wrapper, sys.executable, "-c", hold, f"{tmp_path}/broker.lock"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        text = failure_of("broker_unreachable", "absent", site, patience_s=30.0).message
        holder.kill()

    assert f"pid {holder.pid}" in text
    assert ("It runs in another mount namespace" in text) is bool(wrapper)
    assert ("Mount the palace's directory in both, with its socket" in text) is bool(wrapper)
