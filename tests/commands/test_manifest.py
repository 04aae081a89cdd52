"""A backup's manifest may be anybody's: what ours never say is refused, with its file's name."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from palace.commands.backup import MANIFEST, read_manifest
from palace.journal.record import seal
from palace.kernel.kernel import Kernel
from palace.protocol.errors import BackupBroken

HUGE = int("9" * 4300)
FILE = "journal/00000000000000000001.jsonl"
GOOD: dict[str, Any] = {
    "v": 1,
    "palace_id": "0" * 32,
    "epoch": 3,
    "contents": {"seq": 7, "epoch": 3, "kinds": {"k": 1}, "digest": "0" * 16},
    "made": "2026-01-01T00:00:00Z",
    "made_by": "palace 1",
    "files": {FILE: [10, "0" * 64]},
}


def put(root: Path, body: bytes) -> str:
    (root / MANIFEST).write_bytes(seal(body).lstrip(b"\n"))
    return str(root)


def manifest(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def test_a_manifest_like_ours_is_read(tmp_path: Path) -> None:
    assert read_manifest(put(tmp_path, manifest()), Kernel()).epoch == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": HUGE},
        {"epoch": 10**18},
        {"epoch": -1},
        {"epoch": "3"},
        {"epoch": True},
        {"palace_id": "../x"},
        {"palace_id": 7},
        {"made": 7},
        {"made": "x" * 5000},
        {"made_by": ["x"]},
        {"contents": GOOD["contents"] | {"seq": HUGE}},
        {"contents": GOOD["contents"] | {"kinds": ["k"]}},
        {"contents": GOOD["contents"] | {"kinds": {"k": HUGE}}},
        {"contents": GOOD["contents"] | {"digest": 7}},
        {"contents": 7},
        {"files": {"../../.bashrc": [1, "0"]}},
        {"files": {"journal/../../x": [1, "0"]}},
        {"files": {f"../{FILE}": [1, "0"]}},
        {"files": {f"{FILE}/../../x": [1, "0"]}},
        {"files": {FILE: [HUGE, "0"]}},
        {"files": {FILE: [1, 7]}},
        {"files": {FILE: 7}},
        {"files": [FILE]},
        {"v": HUGE},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_what_no_manifest_of_ours_says_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BackupBroken) as caught:
        read_manifest(put(tmp_path, manifest(**changes)), Kernel())

    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("body", [b"[" * 30_000, b"[]", b"7", b'{"v":' + b"9" * 5000 + b"}"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(BackupBroken, match=MANIFEST):
        read_manifest(put(tmp_path, body), Kernel())


def test_a_link_and_a_pipe_in_its_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(manifest())
    (tmp_path / MANIFEST).symlink_to("real")
    with pytest.raises(BackupBroken):
        read_manifest(str(tmp_path), Kernel())
    (tmp_path / MANIFEST).unlink()
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(BackupBroken):
        read_manifest(str(tmp_path), Kernel())
