"""The key and certificate by which guests know a broker.

Without one of the user's own, there is one for each palace, made when the first guest got a
directory, and kept with the guests' tokens; where there is none, an incarnation makes its own.
Clients pin its fingerprint; dates and names in it mean nothing.
"""

import ipaddress
import os
import ssl
import tempfile
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import attrs

from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError
from palace.settings.config import Config

PEM_BYTES_MAX = 1 << 20
KEPT = "certificate.pem"  # with its key
FOREVER = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC))


@attrs.frozen(kw_only=True)
class Identity:
    """What a listener shows: `fingerprint` is SHA-256 of the certificate, in hexadecimal."""

    context: ssl.SSLContext
    fingerprint: str


def make_identity(config: Config, kernel: Kernel, directory: str = "") -> Identity:
    """Return a server's identity: the user's own, the one kept in `directory`, or a new one.

    Raises ConfigError.
    """
    context = _context()
    if config.certificate or config.private_key:
        return Identity(context=context, fingerprint=_load_own(context, config, kernel))
    kept = kernel.read_file(f"{directory}/{KEPT}", PEM_BYTES_MAX) if directory else None
    if kept is not None:
        return _kept_identity(context, f"{directory}/{KEPT}", kept)
    key, certificate = _new_pair()
    # OpenSSL takes files only; these are ours alone and gone in a moment.
    with tempfile.NamedTemporaryFile(prefix="palace-") as file:
        file.write(key + certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return Identity(context=context, fingerprint=_fingerprint(certificate))


def keep_door_identity(
    config: Config, kernel: Kernel, directory: str, host: str
) -> tuple[Identity, str]:
    """Return what the memory contract shows over TLS, and the file by which clients know it.

    The user's own, else one that is made for this host and kept; its key is in another file.
    Raises ConfigError and OSError.
    """
    if config.certificate or config.private_key:
        return make_identity(config, kernel), config.certificate
    path = f"{directory}/{_name_for(host)}"
    if kernel.file_id(f"{path}.pem") is None or kernel.file_id(f"{path}.crt") is None:
        os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
        kernel.make_directory(directory)
        key, certificate = _new_pair(host)
        kernel.write_durable(f"{path}.crt", certificate)
        kernel.write_durable(f"{path}.pem", key + certificate)
    pem = kernel.read_file(f"{path}.pem", PEM_BYTES_MAX) or b""
    return _kept_identity(_context(), f"{path}.pem", pem), f"{path}.crt"


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _name_for(host: str) -> str:
    """Return the name of the files for a host: another one has another certificate."""
    return f"memory-{sha256(host.encode()).hexdigest()[:8]}"


def keep_identity(config: Config, kernel: Kernel, directory: str) -> str:
    """Return the fingerprint that guests are to pin, of an identity that lasts.

    Makes one and keeps it in `directory`, unless there is one or the user has one of their own.
    Raises ConfigError.
    """
    path = f"{directory}/{KEPT}"
    if not (config.certificate or config.private_key) and kernel.file_id(path) is None:
        kernel.write_durable(path, b"".join(_new_pair()))
    return make_identity(config, kernel, directory).fingerprint


def door_fingerprint(config: Config, kernel: Kernel, directory: str) -> str:
    """Return the fingerprint of what is shown over TLS at `serve_http`, made if it isn't there.

    Raises ConfigError and OSError.
    """
    host = config.serve_http.rpartition(":")[0].strip("[]")
    return keep_door_identity(config, kernel, directory, host)[0].fingerprint


def _kept_identity(context: ssl.SSLContext, path: str, pem: bytes) -> Identity:
    try:
        context.load_cert_chain(path)
        return Identity(context=context, fingerprint=_fingerprint(pem))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: {error}. Remove it, and give out guests' directories again: palace expose "
            "docker NAME"
        ) from None


def _new_pair(host: str = "") -> tuple[bytes, bytes]:
    """Return a key and a certificate that it signed, for a host if one is named, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "palace broker")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(FOREVER[0])
        .not_valid_after(FOREVER[1])
    )
    if host:
        name_of = _address_name(host) or x509.DNSName(host)
        builder = builder.add_extension(x509.SubjectAlternativeName([name_of]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate.public_bytes(serialization.Encoding.PEM),
    )


def _address_name(host: str) -> Any:
    """Return how a certificate names an address, None for a host that is none."""
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return None


def _load_own(context: ssl.SSLContext, config: Config, kernel: Kernel) -> str:
    if not (config.certificate and config.private_key):
        raise ConfigError("certificate and private_key go together: name both (palace config set).")
    try:
        context.load_cert_chain(config.certificate, config.private_key)
        pem = kernel.read_file(config.certificate, PEM_BYTES_MAX) or b""
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"certificate = {config.certificate!r}, private_key = {config.private_key!r}: {error}. "
            "Both must be PEM files that belong together."
        ) from None
    return _fingerprint(pem)


def _fingerprint(pem: bytes) -> str:
    text = pem.decode("ascii", "replace")
    head = "-----BEGIN CERTIFICATE-----"
    tail = "-----END CERTIFICATE-----"
    first = head + text.partition(head)[2].partition(tail)[0] + tail
    return sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
