"""What says that a session has claimed a task, and how that is told to the next broker."""

import json

import pytest

from palace.protocol import wire
from palace.protocol.claims import (
    CLAIMS_MAX,
    claim_in,
    decode_claims,
    encode_claims,
    is_claim,
)
from palace.protocol.session import Hello

EVENT = "evt_20261130T000000_0123456789ab"


def reply(told: object) -> bytes:
    result = {"content": [{"type": "text", "text": json.dumps(told)}]}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


def test_which_calls_may_claim_a_task() -> None:
    assert is_claim("mempalace_event_ack", {"status": "claimed"})
    assert is_claim("palace_heartbeat", {})
    assert not is_claim("mempalace_event_ack", {"status": "ready"})
    assert not is_claim("mempalace_event_append", {})


@pytest.mark.parametrize(
    ("payload", "claim"),
    [
        (reply({"success": True, "event": {"id": EVENT}}), EVENT),
        (reply({"task": {"claim": EVENT}}), EVENT),
        (reply({"task": {"claim": ""}}), ""),
        (reply({"task": {"claim": 7}}), ""),
        (reply({"success": False, "error": "no such event"}), ""),
        (reply({"event": {"id": "a b"}}), ""),
        (reply({"event": {"id": "x" * 61}}), ""),
        (reply(["event"]), ""),
        (b'{"error": {"code": -31077}}', ""),
        (b'{"result": {"content": []}}', ""),
        (b"no JSON", ""),
        (b"[" * 100_000, ""),
        (b" " * (1 << 20) + reply({"task": {"claim": EVENT}}), ""),
    ],
)
def test_the_claim_that_a_reply_tells(payload: bytes, claim: str) -> None:
    assert claim_in(payload) == claim


def test_claims_are_told_in_each_hello_within_bounds() -> None:
    many = [f"evt_{number:055}" for number in range(CLAIMS_MAX)]
    told = encode_claims(many)

    assert len(told) <= wire.TEXT_MAX, "or the HELLO would be refused"
    assert decode_claims(told) == tuple(many)
    assert decode_claims(f"older,{told}") == tuple(many)
    assert decode_claims("") == decode_claims(",,a b,\x00") == ()
    hello = Hello.read({"session": "s", "claims": f"{EVENT},../up"})
    assert hello.claims == (EVENT,)
    assert Hello.read({"session": "s"}).claims == ()
