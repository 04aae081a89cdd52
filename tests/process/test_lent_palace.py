"""A palace whose directory was lent: what a container, or a backup's maker, has written into it.

The real engine opens it.  Nothing of the user's outside the palace is read, made or changed, the
foreign records are named, and the memories are all there.
"""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from palace.commands.backup import find_backup, read_manifest
from palace.journal.copying import file_digest, read_contents
from palace.journal.inspect import read_from
from palace.journal.journal import read_tail
from palace.journal.record import ADOPT, DELETE, OUTCOME, PUT, Draft, Record, Stamp, encode
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from tests.support.processes.clients import Site, end_brokers
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.process, pytest.mark.engine]

KERNEL = Kernel()
NOW = "2026-01-01T00:00:00.000Z"
UP = "../" * 20
SECRET = "PRIVATE-KEY-CANARY"


@pytest.fixture
def site(tmp_path: Path, model_home: Path) -> Iterator[Site]:
    """A palace with one memory and no broker, and a home with a secret in it."""
    site = make_site(tmp_path, model_home)
    try:
        with site.shim() as client:
            client.tool("add_drawer", wing="w", room="r", content="a memory")
        site.run("stop")
        (site.home / ".ssh").mkdir(mode=0o700)
        (site.home / ".ssh/id").write_text(SECRET)
        yield site
    finally:
        end_brokers(site.palace)


def payload(text: str) -> dict[str, str]:
    return {"base64": base64.b64encode(text.encode()).decode()}


def append(journal: Path, drafts: list[Draft]) -> None:
    segments = list_segments(str(journal), KERNEL)
    tail = read_tail(segments, KERNEL)
    stamp = Stamp(epoch=tail.epoch, writer="x" * 32)
    with open(segments[-1].path, "ab") as file:
        file.writelines(
            encode(draft, seq, stamp, NOW) for seq, draft in enumerate(drafts, tail.seq + 1)
        )


def foreign_records(site: Site, name: str) -> list[Draft]:
    """Return a change that would make a file, and one that would read one."""
    new, secret = (UP + str(path).lstrip("/") for path in (site.home / name, site.home / ".ssh/id"))
    made = Draft(action=PUT, kind="file", id=new, key="k:1", step=1, payload=payload("made"))
    read = Draft(action=ADOPT, kind="file", id=secret, payload=payload("y"))
    return [made, Draft(action=OUTCOME, key="k:1", payload={"reply": "x"}), read]


def journal_bytes(site: Site) -> bytes:
    return b"".join(path.read_bytes() for path in (site.palace / "journal").rglob("*.jsonl"))


def test_records_that_name_other_files_are_named_and_never_carried_out(site: Site) -> None:
    append(site.palace / "journal", foreign_records(site, ".bash_profile"))

    with site.shim() as client:
        found = client.tool("search", query="a memory")
    site.run("stop")

    assert "a memory" in json.dumps(found)
    assert not (site.home / ".bash_profile").exists()
    assert base64.b64encode(SECRET.encode()) not in journal_bytes(site)
    assert "SET ASIDE" in site.run("history").stdout
    assert "names a file that no palace keeps" in site.run("history").stdout


def test_records_of_somebody_elses_change_no_memory_and_are_named(site: Site) -> None:
    """What a container appends of memories, in the right form, is nobody's until it has a key."""
    known = [r for r in read_from(str(site.palace / "journal"), KERNEL) if isinstance(r, Record)]
    drawer = next(r for r in known if r.kind == "chroma:mempalace_drawers")
    assert isinstance(drawer.payload, dict)
    evil = attrs.evolve(
        Draft(action=PUT, kind=drawer.kind, id=drawer.id, key="k:1", step=1),
        payload={**drawer.payload, "document": "an evil memory"},
        before=drawer.payload,
    )
    gone = Draft(action=DELETE, kind=drawer.kind, id=drawer.id, key="k:2", deleted=True)
    done = Draft(action=OUTCOME, key="k:1", payload={"reply": "x"})
    append(site.palace / "journal", [evil, done, gone])
    before = site.run("doctor")

    with site.shim() as client:
        found = client.tool("search", query="a memory")
    site.run("stop")
    after = site.run("doctor")
    site.run("rebuild")
    with site.shim() as client:
        rebuilt = client.tool("search", query="a memory")

    for each in (found, rebuilt):
        assert "a memory" in json.dumps(each)
        assert "evil" not in json.dumps(each)
    said = [" ".join(each.stdout.split()) for each in (before, after)]  # it is wrapped
    assert "not a record of this palace's owner: it has no code" in said[0]
    assert "3 lines in 1 files" in said[1]
    assert "palace trust --discard" in said[1]
    assert len(list((site.palace / "journal/quarantine").iterdir())) == 1


def test_a_backup_of_somebody_elses_is_refused_and_writes_nothing(site: Site) -> None:
    into = site.home / "backups"
    assert site.run("backup", str(into)).returncode == 0
    backup = find_backup(str(into), KERNEL)
    victim = site.home / ".bashrc"
    victim.write_text("mine")
    record = Draft(
        action=ADOPT, kind="file", id=UP + str(victim).lstrip("/"), payload=payload("owned")
    )
    append(Path(backup.journal), [record])
    manifest = read_manifest(backup.path, KERNEL)
    names = list(manifest.files)
    forged = attrs.evolve(
        manifest,
        contents=read_contents(backup.journal, KERNEL),
        files={name: file_digest(f"{backup.path}/{name}", KERNEL) for name in names},
    )
    Path(backup.path, "palace-backup.json").write_bytes(forged.encode())
    new = site.home / "new/palace"
    new.parent.mkdir()

    verified = site.run("backup", str(into), "--verify")
    restored = site.run("restore", backup.path, "--palace", str(new))

    assert victim.read_text() == "mine"
    for done in (verified, restored):
        assert done.returncode != 0
        assert "names a file that no palace keeps" in done.stderr
        assert "--trust" in done.stderr


def test_a_backup_without_its_keys_needs_trust(site: Site) -> None:
    into, new = site.home / "backups", site.home / "new/palace"
    new.parent.mkdir()
    assert site.run("backup", str(into)).returncode == 0
    shutil.rmtree(site.home / ".local/state/palace/keys")
    restore = ("restore", str(into), "--palace", str(new))

    for arguments in (("backup", str(into), "--verify"), restore):
        refused = site.run(*arguments)
        assert refused.returncode == 65
        assert "whose keys this user doesn't have" in refused.stderr
        assert "--trust" in refused.stderr
    assert site.run(*restore, "--trust").returncode == 0

    assert "in order" in site.run("doctor", "--palace", str(new)).stdout
    assert "this user writes with it" in site.run("trust", "--palace", str(new)).stdout


def test_a_plan_of_renames_of_somebody_elses_is_refused_by_name(site: Site) -> None:
    secret = site.home / ".ssh/id"
    plan = [[str(secret), str(site.palace / "id")]]
    (site.palace / "swap.json").write_text(json.dumps(plan))

    done = site.run("doctor", "--drift")

    assert secret.read_text() == SECRET
    assert done.returncode != 0
    assert "swap.json is no plan of this palace's own" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["journal", "chroma.sqlite3", "logstream.sqlite3"])
def test_a_store_that_is_a_link_is_refused_by_name(site: Site, name: str) -> None:
    outside = site.home / "outside"
    path = site.palace / name
    if path.exists():
        os.rename(path, outside)
    path.symlink_to(outside)
    before = sorted(p.name for p in site.home.rglob("*") if "outside" in str(p))

    done = site.run("ensure")

    assert done.returncode != 0
    assert f"{path} is a link" in done.stderr
    assert sorted(p.name for p in site.home.rglob("*") if "outside" in str(p)) == before


# Settings.


def test_settings_in_the_palace_open_and_admit_nothing_and_are_named(site: Site) -> None:
    lent = 'listen = "127.0.0.1:7999"\nallow_uids = [65534]\nhttp = 7998\n'
    with (site.palace / "palace.toml").open("a") as file:
        file.write(lent)

    with site.shim() as client:
        client.tool("status")
        status = json.loads(site.run("status", "--json").stdout)
        record = site.record()
        doctor = [json.loads(row) for row in site.run("doctor", "--json").stdout.splitlines()]
    log = (site.palace / "broker.log").read_text()

    named = "listen, allow_uids, http in"
    assert status["listen"] == ""
    assert ":7998" not in status["http"]["url"]
    assert not [url for url in record["endpoints"] if url.startswith("wss:")]
    assert any(named in notice for notice in status["notices"])
    assert named in log
    (found,) = [one for one in doctor if one["code"] == "ignored_settings"]
    assert "palace config trust" in found["remedy"]


def test_a_shim_runs_nothing_that_a_palace_names(site: Site, tmp_path: Path) -> None:
    """A claim makes the shim a guest, and a guest's ssh runs what its configuration says."""
    mark, ssh = tmp_path / "ran", site.palace / "ssh.config"
    claim = {"v": 1, "id": "a" * 32, "host": "x", "path": str(site.palace), "since": "2026"}
    (site.palace / "owner.json").write_text(json.dumps(claim))
    ssh.write_text(f"Host *\n  ProxyCommand touch {mark}\n")
    with (site.palace / "palace.toml").open("a") as file:
        file.write(
            f'bridge = "ssh://x"\nbridge_config = "{ssh}"\nbridge_command = "touch {mark}"\n'
        )

    with site.shim() as client:
        message = client.call("mempalace_status")["error"]["message"]
    boundary = site.run("doctor", "--boundary")

    assert not mark.exists()
    for said in (message, boundary.stdout):
        assert "bridge, bridge_config, bridge_command in" in said
        assert f"palace config trust --palace {site.palace}" in said


def test_settings_of_a_backup_are_shown_and_do_not_count(site: Site, tmp_path: Path) -> None:
    with (site.palace / "palace.toml").open("a") as file:
        file.write('readers = 2\nlisten = "127.0.0.1:7999"\n')
    assert site.run("backup", str(site.home / "backups")).returncode == 0
    backup = find_backup(str(site.home / "backups"), KERNEL)
    toml = Path(backup.path, "palace.toml")
    text = toml.read_text().replace(str(site.home), "/elsewhere")
    toml.write_text(text.replace("environment = {}", 'environment = { PATH = "/x" }'))
    manifest = read_manifest(backup.path, KERNEL)
    files = {**manifest.files, "palace.toml": file_digest(str(toml), KERNEL)}
    forged = attrs.evolve(manifest, files=files)
    Path(backup.path, "palace-backup.json").write_bytes(forged.encode())

    restored = Site(home=site.home, palace=tmp_path / "restored" / "palace", extra=site.extra)
    restored.palace.parent.mkdir()
    done = restored.run("restore", backup.path)

    assert done.returncode == 0, done.stderr
    for part in ('  listen = "127.0.0.1:7999"', '  environment = { PATH = "/x" }', "config_dir"):
        assert part in done.stdout
    shown = restored.run("config").stdout
    assert "readers = 2" in shown
    assert "listen in" in shown
    assert "/x" not in (restored.palace / "palace.toml").read_text()
