import json

import pytest

from palace.protocol.broker_record import BrokerRecord, decode_broker_record, version_tuple

FIELDS = {
    "v": 1,
    "epoch": 4,
    "incarnation": "ab",
    "palace_id": "cd",
    "pid": 12,
    "start_time": "9",
    "boot_id": "b",
    "pid_namespace": "",
    "host_id": "h",
    "endpoints": ["unix:/x/broker.sock"],
    "token": "secret",
    "version": "0.1.0",
    "mode": "broker",
    "started_at": "now",
    "fingerprint": "",
}


def test_a_record_comes_back_as_it_was() -> None:
    record = BrokerRecord(**FIELDS)

    again = decode_broker_record(record.encode())

    assert again is not None
    assert again.to_dict() == FIELDS


def test_a_record_of_an_older_version_says_less() -> None:
    older = {name: value for name, value in FIELDS.items() if name != "fingerprint"}

    again = decode_broker_record(json.dumps(older).encode())

    assert again is not None
    assert again.to_dict() == FIELDS


def test_the_token_is_neither_shown_nor_published_to_people() -> None:
    record = BrokerRecord(**FIELDS)

    assert "secret" not in repr(record)
    assert "token" not in record.public_dict()


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"{}",
        BrokerRecord(**FIELDS).encode()[:-9],
        json.dumps(FIELDS | {"v": 99}).encode(),
        json.dumps(FIELDS | {"pid": "12"}).encode(),
        json.dumps(FIELDS | {"endpoints": [{"unix": 1}]}).encode(),
        json.dumps({k: v for k, v in FIELDS.items() if k != "epoch"}).encode(),
        b"[" * 100_000,
    ],
)
def test_torn_alien_and_future_records_count_as_absent(data: bytes | None) -> None:
    assert decode_broker_record(data) is None


def test_versions_compare_by_their_numbers() -> None:
    assert version_tuple("0.10.0") > version_tuple("0.9.9")
    assert version_tuple("1.2.3rc1") == (1, 2, 3)
    assert version_tuple("1.x") == (1,)
    assert version_tuple("") == ()


def test_sockets_that_no_broker_has_and_endless_lists_are_left_out() -> None:
    told = ["unix:/x/agent.sock", "unix:x/broker.sock", "unix:/../broker.sock", "tcp:1", "wss://h/"]

    found = decode_broker_record(json.dumps(FIELDS | {"endpoints": told}).encode())

    assert found is not None
    assert found.endpoints == ["wss://h/"]
    for odd in ({"endpoints": ["wss://h/"] * 1000}, {"pid": -1}):
        assert decode_broker_record(json.dumps(FIELDS | odd).encode()) is None
