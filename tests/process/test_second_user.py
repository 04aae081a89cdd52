"""What another user is told of a palace that its owner shares, and one who is not admitted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machines.needs import need_command, need_root
from tests.support.processes.clients import PALACE

pytestmark = [pytest.mark.engine, pytest.mark.process]

OWNER, ADMITTED, STRANGER = 54321, 54322, 54323
# An interpreter below a home that is closed to others is shown to them at its own path.
SHOWN = """
case $PREFIX in /root/*)
  t=$(mktemp -d); mount --bind /root "$t"; mount -t tmpfs -o mode=755 none /root
  mkdir -p "$PREFIX"; mount --bind "$t/${PREFIX#/root/}" "$PREFIX"; umount -l "$t"; rmdir "$t"
esac
"""
SCRIPT = """
as() {
  uid=$1; shift; home=$ROOT/$uid
  setpriv --reuid $uid --regid $uid --clear-groups \\
    env -i PATH=/usr/bin:/bin HOME=$home PALACE_NO_DOWNLOAD=1 $PALACE "$@"
}
as $OWNER config set allow_uids=$ADMITTED --palace $ROOT/shared
as $OWNER start --palace $ROOT/shared
echo "$CALL" | as $ADMITTED shim --palace $ROOT/shared > $ROOT/reply
for uid in $ADMITTED $STRANGER; do
  for command in status start doctor "doctor --json"; do
    as $uid $command --palace $ROOT/shared > "$ROOT/$uid $command" 2>&1
    echo $? >> "$ROOT/$uid $command"
  done
done
as $OWNER stop --palace $ROOT/shared
as $OWNER config set allow_uids=$STRANGER --palace $ROOT/shared
as $OWNER start --palace $ROOT/shared
as $STRANGER doctor --json --palace $ROOT/shared > $ROOT/allowed
as $OWNER stop --palace $ROOT/shared
"""
CALL = (
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"mempalace_kg_add",'
    '"arguments":{"subject":"a","predicate":"b","object":"c"}}}'
)


@pytest.fixture
def said(short_dir: Path) -> dict[str, str]:
    """What each user's commands say beside the owner's broker, by user and command."""
    need_root()
    need_command("unshare")
    short_dir.chmod(0o755)
    for uid in (OWNER, ADMITTED, STRANGER):
        (short_dir / str(uid)).mkdir()
        os.chown(short_dir / str(uid), uid, uid)
    (short_dir / "shared").mkdir(mode=0o755)
    os.chown(short_dir / "shared", OWNER, OWNER)
    names = {"OWNER": OWNER, "ADMITTED": ADMITTED, "STRANGER": STRANGER, "ROOT": short_dir}
    environ = {name: str(value) for name, value in names.items()}
    environ |= {"PREFIX": sys.base_prefix, "PALACE": " ".join(PALACE), "CALL": CALL}
    subprocess.run(
        ["unshare", "--mount", "bash", "-c", SHOWN + SCRIPT],
        env=os.environ | environ,
        check=True,
        timeout=120,
    )
    return {path.name: path.read_text() for path in short_dir.iterdir() if path.is_file()}


def test_who_is_admitted_is_told_that_the_broker_serves_and_who_is_not_whom_to_ask(
    said: dict[str, str],
) -> None:
    assert "triple_id" in said["reply"]
    assert not [name for name, text in said.items() if "kill" in text or "Permission den" in text]
    *serving, code = said[f"{ADMITTED} start"].splitlines()
    assert (" serves " in serving[-1], code) == (True, "0")
    mine = said[f"{ADMITTED} doctor"]
    assert f"serves you; what it does it tells uid {OWNER} and root alone" in mine
    assert "stock's own tools of yours" in " ".join(mine.split())
    assert '"level": "error"' not in said[f"{ADMITTED} doctor --json"]
    assert said[f"{ADMITTED} doctor --json"].splitlines()[-1] == "1"

    theirs = said[f"{STRANGER} doctor --json"]
    assert f"uid {STRANGER} may not use this palace" in theirs
    assert f"palace config set allow_uids={STRANGER}" in theirs
    assert f"Let uid {OWNER} allow it" in theirs
    assert theirs.splitlines()[-1] == "65"
    codes = {
        name: [json.loads(line)["code"] for line in said[name].splitlines()[:-1]]
        for name in (f"{STRANGER} doctor --json", "allowed")
    }
    assert ["refused" in found for found in codes.values()] == [True, False]
