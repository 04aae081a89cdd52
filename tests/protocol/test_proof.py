"""What a session shows of its secret."""

from palace.protocol import wire
from palace.protocol.proof import proof_of


def test_a_proof_is_that_of_one_secret_and_does_not_hold_it() -> None:
    assert proof_of("a secret") == proof_of("a secret") != proof_of("a secret.")
    assert "secret" not in proof_of("a secret")
    assert wire.wants_proof(wire.session_name(proof_of("\ud800")))
