"""Keys and certificates on disk. The only module of ``pki`` that touches it.

PEM throughout. A private key is written once, for its owner alone, and never overwritten; a
certificate is public and is replaced in one step when it is renewed.
"""

import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.pki.verify import spki_sha256
from stillroom.common.signing import public_key_from_hex, public_key_hex


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a P-384 private key as unencrypted PKCS #8 with mode 0600.

    Raises:
        ConfigError: STR-107 when ``path`` exists; STR-101 when it cannot be written.
    """
    _write_private(path, key)


def write_signing_key(path: Path, key: ed25519.Ed25519PrivateKey) -> None:
    """Write an Ed25519 private key as ``write_key`` does, and its public half beside it.

    ``signing.key`` gets a ``signing.pub``: whoever only checks signatures, as the runner does,
    then needs no access to the private key.
    """
    _write_private(path, key)
    try:
        path.with_suffix(".pub").write_text(public_key_hex(key) + "\n", "ascii")
    except OSError as error:
        raise _unreadable(path.with_suffix(".pub"), "written") from error


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        # O_EXCL creates the file with its final mode: there is no moment in which others could
        # open it, no link to follow, and no existing key to destroy.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already.",
            fix="Keep the key that is there, or move it away first.",
            code="STR-107",
        ) from error
    except OSError as error:
        raise _unreadable(path, "written") from error


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a P-384 private key that nobody but its owner can read.

    Raises:
        TrustError: STR-202. Group or others may read or write the file.
        ConfigError: STR-101. Missing, unreadable, encrypted, or not a P-384 key.
    """
    key = _load_private(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _unreadable(path, "used: it does not hold a P-384 key")
    return key


def load_signing_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """Read an Ed25519 private key that nobody but its owner can read; raises as ``load_key``."""
    key = _load_private(path)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _unreadable(path, "used: it does not hold an Ed25519 key")
    return key


def load_verifying_key(path: Path) -> ed25519.Ed25519PublicKey:
    """Read the public half that ``write_signing_key`` wrote beside the private key ``path``.

    Raises:
        ConfigError: STR-101. Missing, unreadable, or not an Ed25519 public key.
    """
    public = path.with_suffix(".pub")
    try:
        return public_key_from_hex(public.read_text("ascii").strip())
    except (OSError, ValueError, TrustError) as error:
        raise _unreadable(public, "read as a public key") from error


def _load_private(path: Path) -> object:
    """Any private key: the one place where a passphrase or a PKCS #11 token would come in."""
    try:
        with path.open("rb") as stream:
            # The mode of what was opened, not of whatever carries the name a moment later.
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            pem = stream.read()
    except OSError as error:
        raise _unreadable(path, "read") from error
    if mode & 0o077:
        raise TrustError(
            f"{path} has mode {mode:04o}; a private key must be its owner's alone (0600).",
            fix=f"Run `chmod 600 {path}`. If others may have copied it, make a new key.",
            code="STR-202",
        )
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unreadable(path, "read as an unencrypted PEM private key") from error


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate as PEM, mode 0644, replacing an older one in one step.

    Raises:
        ConfigError: STR-101. The file cannot be written.
    """
    # A crash before the rename leaves the older certificate whole, and a stray `.new` file.
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as stream:
            stream.write(certificate.public_bytes(serialization.Encoding.PEM))
            stream.flush()
            os.fsync(stream.fileno())
        fresh.chmod(0o644)
        os.replace(fresh, path)
    except OSError as error:
        raise _unreadable(path, "written") from error


def load_certificate(path: Path) -> x509.Certificate:
    """Read the one certificate in a PEM file.

    Raises:
        ConfigError: STR-101. Missing, unreadable, or not exactly one certificate.
    """
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError, x509.InvalidVersion) as error:
        raise _unreadable(path, "read as a PEM certificate") from error
    if len(certificates) != 1:
        raise _unreadable(path, "used: it holds more than one certificate")
    return certificates[0]


def check_pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Refuse a certificate and a private key that were not made for each other.

    Raises:
        TrustError: STR-203.
    """
    if spki_sha256(certificate.public_key()) != spki_sha256(key.public_key()):
        raise TrustError(
            "The certificate was issued for another key than the one given.",
            fix="Give the certificate and the key that belong together.",
            code="STR-203",
        )


def _unreadable(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be {what}.",
        fix="Check the path, the file's permissions and its content.",
        code="STR-101",
    )
