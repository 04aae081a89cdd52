"""Dockerfile.base carried out, and what comes of it run: without a Docker engine, as root.

PALACE_TEST_PROFILE=full builds all targets, some of them again, from this directory and from a
repository.  The smoke test inside of them is the one that CI runs in real containers.
"""

import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.smoke import COMPILERS, MANAGERS, SHELLS
from palace.commands.config import change_settings
from palace.kernel.kernel import Kernel
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.support.faults.killing import is_full
from tests.support.machines.containers import ROOT, Builder, Image, fingerprints, open_builder
from tests.support.machines.mounts import mounted
from tests.support.machines.needs import need_command
from tests.support.machines.sshd import NAME, free_port, open_sshd
from tests.support.processes.brokers import Serving, make_palace, make_site
from tests.support.processes.clients import Site, end_brokers, wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.engine,
    pytest.mark.skipif(not is_full(), reason="takes minutes: PALACE_TEST_PROFILE=full"),
]

UID = "1000"
SMOKE = {ROOT / "images" / "smoke.py": "/smoke.py"}
# A broker outside, as a user without the rights that root has but for reading this Python.
AS_USER = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"),
)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    with open_builder(tmp_path_factory.mktemp("builder")) as builder:
        yield builder


@pytest.fixture(scope="module")
def shim(builder: Builder) -> Image:
    return builder.build("shim")


@pytest.fixture(scope="module")
def full(builder: Builder) -> Image:
    return builder.build("full")


@pytest.fixture(scope="module")
def distroless(builder: Builder) -> Image:
    return builder.build("distroless")


@pytest.fixture(scope="module", params=["shim", "distroless"])
def reaching(request: pytest.FixtureRequest) -> Image:
    """Images whose shims come from elsewhere."""
    found: Image = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module", params=["full", "distroless"])
def owning(request: pytest.FixtureRequest) -> Image:
    """Images that have palaces of their own."""
    found: Image = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def outside(model_home: Path) -> Iterator[Site]:
    """A palace of user 1000's, and its broker outside of all containers; it serves guests, too."""
    need_command("bindfs")
    root = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))  # pytest's own is closed to that user
    site = make_site(root, model_home)
    make_palace(site, f'listen = "127.0.0.1:{free_port()}"\n')
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(root)], check=True)
    try:
        # It stays while images are built: without it some of them would start one of their own.
        with Serving(site, prefix=AS_USER, PALACE_IDLE_S="0"):
            yield site
    finally:
        end_brokers(root)
        shutil.rmtree(root)


def leftovers(image: Image) -> list[str]:
    """Return what a build leaves where only root can look, and names of this machine's index."""
    root = image.root
    places = ("root/.cache", "root/.config", "run/secrets", "var/cache/apt/archives")
    found = [place for place in places if any((root / place).rglob("*.*"))]
    asked = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True)
    hosts = set(re.findall(r"https?://([\w.-]+)", asked.stdout))
    texts = [*(root / "etc").rglob("*"), *(root / "opt/palace").glob("*")]
    return found + [
        str(path)
        for path in texts
        if path.is_file() and any(host in path.read_text(errors="replace") for host in hosts)
    ]


def test_its_files_are_in_order(shim: Image) -> None:
    done = shim.run("python", "/smoke.py", "files", mounts=SMOKE)
    print(done.stdout)

    assert done.returncode == 0, done.stdout
    assert leftovers(shim) == []
    compiled = list((shim.root / "opt/palace").rglob("*.pyc"))
    assert compiled
    assert {path.read_bytes()[4] for path in compiled} == {1}  # by content: PEP 552, unchecked
    assert shim.config["User"] == f"{UID}:{UID}"
    assert not [path for path in shim.root.rglob("site-packages/*") if "mempalace" in path.name]


def test_a_shim_reaches_a_broker_outside_by_its_socket(reaching: Image, outside: Site) -> None:
    mounts = SMOKE | {outside.palace.parent: "/mempalace"}
    done = reaching.run("python", "/smoke.py", "shim", "0", mounts=mounts)
    status = reaching.run("palace", "status", mounts=mounts)
    doctor = reaching.run("palace", "doctor", "--boundary", mounts=mounts)

    assert done.returncode == 0, done.stdout
    assert status.returncode == 0, status.stdout  # by another name than the broker's own
    assert "it answers: epoch 1." in doctor.stdout


def test_a_shim_reaches_a_broker_that_is_named(reaching: Image, outside: Site) -> None:
    url = next(url for url in outside.record()["endpoints"] if url.startswith("wss:"))
    mounts = SMOKE | {outside.palace: "/mempalace/palace"}
    done = reaching.run("python", "/smoke.py", "shim", "1", mounts=mounts, MEMPALACE_BROKER=url)

    assert done.returncode == 0, done.stdout


def test_a_shim_reaches_a_broker_of_another_kernel(
    reaching: Image, outside: Site, tmp_path: Path
) -> None:
    with mounted(outside.palace.parent, tmp_path / "mount") as mount:
        mounts = SMOKE | {mount: "/mempalace"}
        done = reaching.run("python", "/smoke.py", "shim", "2", mounts=mounts)
        healthy = reaching.run(*reaching.config["Healthcheck"]["Test"][1:], mounts=mounts)

    assert done.returncode == 0, done.stdout
    assert healthy.returncode == 0, healthy.stdout


def test_a_shim_reaches_a_broker_over_ssh(reaching: Image, site: Site, tmp_path: Path) -> None:
    environ = {"HOME": str(site.home), "MEMPALACE_PATH": str(site.palace)}
    with open_sshd(tmp_path / "ssh", environ=environ) as sshd:
        command = os.path.join(os.path.dirname(sys.executable), "palace")
        make_palace(site)
        state = tmp_path / "state"  # of the container's user
        way = {"bridge": f"ssh://{NAME}", "bridge_command": command}
        change_settings(
            Paths("/mempalace/palace"),
            ShimEnvironment({"XDG_STATE_HOME": str(state)}),
            way | {"bridge_config": str(sshd.config)},
            Kernel(),
        )
        with mounted(site.palace.parent, tmp_path / "mount") as mount:
            mounts = SMOKE | {mount: "/mempalace", sshd.directory: str(sshd.directory)}
            mounts |= {state: "/state"}
            words = ("python", "/smoke.py", "shim", "3")
            # The palace, and sshd, are root's.
            done = reaching.run(*words, user="0:0", mounts=mounts, XDG_STATE_HOME="/state")

    assert done.returncode == 0, done.stdout


def test_the_entry_point_says_what_is_missing(shim: Image, tmp_path: Path) -> None:
    nobodys = tmp_path / "palace"
    nobodys.mkdir(mode=0o755)
    none = shim.run("palace", "shim")
    of_root = shim.run("palace", "shim", mounts={nobodys: "/mempalace/palace"})
    told = shim.run("echo", "goes on")
    version = shim.run("palace", "--version", user="4321:4321")

    assert none.returncode == of_root.returncode == 66
    assert "there is no palace at /mempalace/palace" in none.stdout
    assert "Mount the host's" in none.stdout
    assert f"belongs to uid 0, and this container runs as uid {UID}" in of_root.stdout
    assert "there is no palace" in told.stdout
    assert told.stdout.endswith("goes on\n")
    assert version.returncode == 0
    assert "/tmp/home-4321" in version.stdout


def test_health_is_whether_the_next_request_is_answered(
    shim: Image, outside: Site, tmp_path: Path
) -> None:
    check = shim.config["Healthcheck"]["Test"][1:]
    mounts = {outside.palace.parent: "/mempalace"}
    empty = tmp_path / "palace"
    empty.mkdir(mode=0o700)
    os.chown(empty, int(UID), int(UID))

    assert shim.config["Healthcheck"]["Test"][0] == "CMD"
    assert shim.run(*check, mounts=mounts).returncode == 0
    assert shim.run(*check, mounts={empty: "/mempalace/palace"}).returncode == 1
    assert shim.run(*check).returncode == 1


def test_an_image_with_the_engine_needs_no_network(owning: Image) -> None:
    files = owning.run("python", "/smoke.py", "files", mounts=SMOKE)
    own = owning.run("python", "/smoke.py", "own", mounts=SMOKE, network=False)
    print(files.stdout, own.stdout)

    assert files.returncode == 0, files.stdout
    assert own.returncode == 0, own.stdout
    assert "is lost with it" in own.stdout


def test_a_serving_container_is_healthy_and_keeps_its_palace(owning: Image, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    os.chown(volume, int(UID), int(UID))
    for _ in range(2):
        with owning.container(mounts=SMOKE | {volume: "/mempalace"}, network=False) as serving:
            wait_until(lambda: serving.execute("palace", "status") == 0, what="it serves")
            codes = [
                serving.execute(*owning.config["Healthcheck"]["Test"][1:]),
                serving.execute("python", "/smoke.py", "shim", "0"),
            ]
            assert codes == [0, 0]
            serving.execute("palace", "stop")  # which ends with the container
            assert serving.process.wait(60) == 0
    assert int((volume / "palace" / "epoch").read_text()) == 2


def test_nothing_of_debian_is_left_but_what_palace_needs(distroless: Image) -> None:
    kinds = fingerprints(distroless.root)
    files = {
        path: about for path, about in kinds.items() if not stat.S_ISDIR(int(about.split()[0], 8))
    }
    names = {path.rpartition("/")[2] for path in files}
    programs = {
        path for path in files if path.startswith(("usr/bin/", "usr/sbin/", "usr/local/bin/"))
    }

    assert not names & {
        *SHELLS,
        *MANAGERS,
        *COMPILERS,
        "env",
        "su",
        "sudo",
        "mount",
        "wget",
        "curl",
    }
    assert {path for path in programs if not path.startswith("usr/bin/python3")} == {"usr/bin/ssh"}
    for shell in ("sh", "bash", "/bin/sh", "apt-get", "dpkg"):
        none = distroless.run(shell, "-c", "true")
        assert (none.returncode, "can't be run: No such file" in none.stdout) == (127, True)
    assert distroless.config["User"] == f"{UID}:{UID}"
    assert not [path for path, about in files.items() if int(about.split()[0], 8) & 0o6000]
    described = {path.name for path in (distroless.root / "var/lib/dpkg/status.d").iterdir()}
    assert described >= {"libc6", "libssl3t64", "openssh-client", "python3.13-minimal", "tzdata"}
    for name in described:
        assert (distroless.root / "usr/share/doc" / name / "copyright").exists(), name


def test_whoever_runs_it_needs_nothing_but_a_volume_to_write_to(
    distroless: Image, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    anybody = 20_000 + secrets.randbelow(40_000)
    os.chown(volume, anybody, anybody)
    more = {"user": f"{anybody}:{anybody}", "read_only": True, "network": False}
    probe = "import sys; print([open(f'{path}/x', 'w') for path in sys.argv[1:]])"
    for path in ("/", "/tmp", "/home/palace", "/opt/palace", "/var/tmp"):
        closed = distroless.run("python", "-c", probe, path, mounts={volume: "/mempalace"}, **more)
        assert "Read-only file system" in closed.stdout, path
    done = distroless.run(
        "python", "/smoke.py", "own", mounts=SMOKE | {volume: "/mempalace"}, **more
    )
    print(done.stdout)

    assert done.returncode == 0, done.stdout
    assert "was killed with SIGKILL" in done.stdout
    assert {path.name for path in volume.iterdir()} >= {"palace", f"home-{anybody}"}


@pytest.mark.parametrize("target", ["shim", "distroless"])
def test_it_is_the_same_when_it_is_built_again(
    builder: Builder, request: pytest.FixtureRequest, target: str
) -> None:
    image: Image = request.getfixturevalue(target)
    again = builder.build(target, f"{target}-again")
    first, second = fingerprints(image.root), fingerprints(again.root)
    differing = {path for path in {*first, *second} if first.get(path) != second.get(path)}

    assert len(first) > 4_000
    assert differing == set()


def test_another_user_and_another_source(builder: Builder, tmp_path: Path) -> None:
    clone = tmp_path / "palace.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(clone)], check=True)
    port = free_port()
    server = subprocess.Popen(
        [
            *("git", "daemon", "--export-all", f"--base-path={tmp_path}", "--reuseaddr"),
            *("--listen=127.0.0.1", f"--port={port}", "--informative-errors"),
        ],
        process_group=0,  # git starts the daemon as its child
    )
    try:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        image = builder.build(
            "shim",
            "other",
            PALACE_GIT=f"git://127.0.0.1:{port}/palace.git",
            PALACE_REF=commit,
            PALACE_UID="2345",
            PALACE_GID="20",
        )
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    done = image.run("python", "/smoke.py", "files", mounts=SMOKE)

    assert done.returncode == 0, done.stdout
    assert "uid 2345" in done.stdout
    assert image.config["User"] == "2345:20"
