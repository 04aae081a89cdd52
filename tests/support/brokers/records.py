"""A broker's record, as brokers write it and others may forge it."""

import json
from pathlib import Path

from palace.settings.paths import Paths

FIELDS = {
    "v": 1,
    "epoch": 3,
    "incarnation": "0" * 32,
    "palace_id": "1" * 32,
    "pid": 1,
    "start_time": "1",
    "boot_id": "b",
    "pid_namespace": "",
    "host_id": "h",
    "endpoints": [],
    "token": "",
    "version": "0.1.0",
    "mode": "broker",
    "started_at": "",
}


def write_record(paths: Paths, **fields: object) -> None:
    """Leave the record of a broker that never was, with these fields."""
    assert fields.keys() <= FIELDS.keys() | {"fingerprint"}
    Path(paths.record).write_text(json.dumps(FIELDS | fields))
