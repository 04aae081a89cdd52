"""What a session shows of its secret: a digest, which may be written down as the secret may not."""

from _blake2 import blake2b  # the hashlib module costs the shim 3 ms


def proof_of(secret: str) -> str:
    """Return 128 bits in hexadecimal that only whoever knows a secret can show the origin of."""
    return blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
