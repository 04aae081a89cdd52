import json

import pytest

from palace.protocol.broker_record import (
    ENDPOINTS_MAX,
    RECORD_BYTES_MAX,
    BrokerRecord,
    decode_broker_record,
    version_tuple,
)

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


def test_a_record_is_shown_with_all_but_its_token() -> None:
    shown = repr(BrokerRecord(**FIELDS))

    for name in FIELDS.keys() - {"token"}:
        assert repr(name) in shown
    assert "'/x/broker.sock'" not in shown
    assert "unix:/x/broker.sock" in shown


def test_a_record_of_the_largest_size_counts_and_a_larger_one_does_not() -> None:
    data = json.dumps(FIELDS).encode()

    assert decode_broker_record(data.ljust(RECORD_BYTES_MAX)) is not None
    assert decode_broker_record(data.ljust(RECORD_BYTES_MAX + 1)) is None


@pytest.mark.parametrize("name", [name for name, value in FIELDS.items() if isinstance(value, str)])
def test_a_field_that_no_terminal_can_show_makes_a_record_alien(name: str) -> None:
    assert decode_broker_record(json.dumps(FIELDS | {name: "\x1b[2J"}).encode()) is None


def test_only_so_many_endpoints_are_read() -> None:
    told = ["wss://h/"] * ENDPOINTS_MAX

    found = decode_broker_record(json.dumps(FIELDS | {"endpoints": told}).encode())
    assert found is not None
    assert found.endpoints == told
    told += ["wss://h/"]
    assert decode_broker_record(json.dumps(FIELDS | {"endpoints": told}).encode()) is None


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("unix:/x:y/broker.sock", True),
        ("unix://x/broker.sock", False),
        ("unix:/./broker.sock", False),
        ("unix:/x/../broker.sock", False),
        ("wss:x:y", True),
        ("ws:unix:/x/broker.sock", False),
    ],
)
def test_an_endpoint_is_a_brokers_socket_on_a_plain_path_or_a_web_socket(
    url: str, known: bool
) -> None:
    found = decode_broker_record(json.dumps(FIELDS | {"endpoints": [url]}).encode())

    assert found is not None
    assert found.endpoints == ([url] if known else [])


def test_of_a_version_so_many_parts_and_digits_count() -> None:
    assert version_tuple("1.2.3.4.5") == (1, 2, 3, 4)
    assert version_tuple("1234567890.1") == (123456789, 1)
