"""Who the consortium is: what a site pins when it enrols, and trusts from then on. Pure.

``consortium.json`` holds the CA certificate and the operators' public keys. It carries two
signatures: an operator's, and the CA's. The second is what ties the operators to the one
fingerprint a person compares: whoever holds the right CA certificate holds the right operators.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillroom.common.canonical import canonical_bytes
from stillroom.common.errors import ConfigError, TrustError
from stillroom.common.signing import (
    key_id,
    public_key_from_hex,
    public_key_hex,
    sign,
    signed_bytes,
    verify,
)

PURPOSE = "consortium"
MOST_BYTES = 256 * 1024
_SIGNATURES = frozenset({"operator", "signature", "ca_signature"})

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[ -~]+$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OperatorKey(_Frozen):
    """One operator: a name for people, and the key that signs studies."""

    name: Label
    public_key_hex: Hex64


class _File(_Frozen):
    """The file as it lies on disk."""

    name: Label
    ca_sha256: Hex64
    ca_pem: Annotated[str, Field(max_length=8192)]
    operators: Annotated[dict[Hex16, OperatorKey], Field(min_length=1, max_length=64)]
    issued_at: Annotated[int, Field(ge=0, le=2**40)]
    log_key_hex: Hex64 | None = None
    operator: Hex16
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    ca_signature: Annotated[str, Field(pattern=r"^[0-9a-f]{16,512}$")]


@dataclass(frozen=True, slots=True)
class Consortium:
    """A consortium description whose signatures hold.

    Attributes:
        name: For people.
        ca: The CA certificate.
        ca_sha256: Its SHA-256, lower-case hex: the fingerprint a site compares.
        operators: Key id -> operator.
        issued_at: Aware, UTC. Also the description's number: a later one has a later time.
        signer: Key id of the operator who signed it.
        raw: The file's bytes, as signed and stored.
        log_key_hex: Public key (Ed25519, hex) that signs the consortium's log; None without a log.
    """

    name: str
    ca: x509.Certificate
    ca_sha256: str
    operators: Mapping[str, OperatorKey]
    issued_at: datetime
    signer: str
    raw: bytes
    log_key_hex: str | None = None

    @property
    def raw_ca_pem(self) -> str:
        """The CA certificate, PEM."""
        return self.ca.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def operator_keys(self) -> dict[str, str]:
        """Key id -> public key in hex, as the check of a study's signature takes it."""
        return {name: operator.public_key_hex for name, operator in self.operators.items()}

    def operator(self, key: str) -> Ed25519PublicKey:
        """The public key of the operator with this key id.

        Raises:
            TrustError: STR-209, no operator of this consortium has it.
        """
        found = self.operators.get(key)
        if found is None:
            raise TrustError(
                "The signing key is not one of this consortium's operators.",
                fix="Ask the operator for the consortium's present description, or who signed.",
                code="STR-209",
            )
        return public_key_from_hex(found.public_key_hex)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate's DER, lower-case hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def grouped(hexadecimal: str) -> str:
    """Hex digits in groups of four, to be read aloud."""
    return " ".join(hexadecimal[i : i + 4] for i in range(0, len(hexadecimal), 4))


def ungrouped(text: str, digits: int = 64) -> str:
    """The hex digits a person typed: spaces, colons, hyphens and capitals do not matter.

    Raises:
        ConfigError: STR-100, not ``digits`` hex digits.
    """
    plain = "".join(character for character in text.lower() if character not in " :-\t\n")
    if len(plain) != digits or any(character not in "0123456789abcdef" for character in plain):
        raise ConfigError(
            f"A fingerprint has {digits} hex digits; this text does not.",
            fix="Copy all of it; spaces between the groups are allowed.",
        )
    return plain


def make_consortium(
    name: str,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    operators: Mapping[str, Ed25519PublicKey],
    signer: Ed25519PrivateKey,
    now: datetime,
    *,
    log_key: Ed25519PublicKey | None = None,
) -> bytes:
    """The canonical, signed file.

    Args:
        name: For people; 1 to 64 printable ASCII characters.
        ca: The CA certificate.
        ca_key: Its key, for the second signature.
        operators: Operator's name -> public key; the signer's among them.
        signer: An operator's key.
        now: Aware time of issue.
        log_key: The key that signs the consortium's log.

    Raises:
        ConfigError: STR-102, a name is empty, too long or not printable ASCII.
    """
    document: dict[str, Any] = {
        "name": name,
        "ca_sha256": fingerprint(ca),
        "ca_pem": ca.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        "operators": {
            key_id(key): {"name": who, "public_key_hex": public_key_hex(key)}
            for who, key in operators.items()
        },
        "issued_at": int(now.timestamp()),
        **({} if log_key is None else {"log_key_hex": public_key_hex(log_key)}),
    }
    message = signed_bytes(PURPOSE, document)
    signed = {
        **document,
        "operator": key_id(signer),
        "signature": sign(signer, PURPOSE, document),
        "ca_signature": ca_key.sign(message, ec.ECDSA(hashes.SHA384())).hex(),
    }
    try:
        _File.model_validate(signed)
    except ValidationError as error:
        raise ConfigError(
            "A name of the consortium or of an operator cannot be used.",
            fix="Use 1 to 64 printable ASCII characters.",
            code="STR-102",
        ) from error
    return canonical_bytes(signed)


def read_consortium(raw: bytes, *, ca_sha256: str | None = None) -> Consortium:
    """The description in ``raw``, after checking both signatures and the fingerprint.

    Args:
        raw: ``consortium.json`` as it arrived.
        ca_sha256: What a person compared; None when the file is read from where it was pinned.

    Raises:
        TrustError: STR-212 another CA than expected; STR-207 a signature does not hold or the
            file is damaged.
    """
    if len(raw) > MOST_BYTES:
        raise _damaged("is larger than a consortium's description can be")
    try:
        file = _File.model_validate(json.loads(raw))
        ca = x509.load_pem_x509_certificate(file.ca_pem.encode("ascii"))
    except (ValueError, RecursionError, x509.InvalidVersion) as error:  # pydantic's is a ValueError
        raise _damaged("cannot be read") from error
    expected = file.ca_sha256 if ca_sha256 is None else ca_sha256
    if not fingerprint(ca) == file.ca_sha256 == expected:
        raise TrustError(
            "The server's CA is not the one with the fingerprint you gave.",
            fix="Compare the fingerprint with the operator by telephone; send nothing until it agrees.",
            code="STR-212",
        )
    # Exactly what was written: a key that is absent is not under the signatures as null either.
    written = file.model_dump(exclude_unset=True)
    document = {k: v for k, v in written.items() if k not in _SIGNATURES}
    _check_operators(file, document)
    _check_ca(ca, document, file.ca_signature)
    return Consortium(
        name=file.name,
        ca=ca,
        ca_sha256=file.ca_sha256,
        operators=dict(file.operators),
        issued_at=datetime.fromtimestamp(file.issued_at, UTC),
        signer=file.operator,
        raw=raw,
        log_key_hex=file.log_key_hex,
    )


def follow(pinned: Consortium, raw: bytes) -> Consortium:
    """The description in ``raw``, if it is the next one after ``pinned``. Pure.

    Root of trust is the one fingerprint that a person compared when the site enrolled: the CA must
    be the same. That alone is not enough, since the CA's key lies on the server: an operator whom
    the pinned description already knows must have signed the new one. Time goes forward only, so
    that an operator who was removed does not come back with an old file.

    Raises:
        TrustError: STR-212 another CA; STR-207 damaged, or a signature does not hold; STR-214 not
            later than the pinned one, or signed by nobody it knows.
    """
    fresh = read_consortium(raw, ca_sha256=pinned.ca_sha256)
    if fresh.issued_at <= pinned.issued_at:
        raise _no_successor("is not later than the one this site has")
    known = pinned.operators.get(fresh.signer)
    if known is None or known.public_key_hex != fresh.operators[fresh.signer].public_key_hex:
        raise _no_successor("is signed by nobody whom the one this site has knows")
    return fresh


def _no_successor(how: str) -> TrustError:
    return TrustError(
        f"A description of the consortium {how}.",
        fix="Telephone the operator; this site goes on with the description it has.",
        code="STR-214",
    )


def _check_operators(file: _File, document: dict[str, Any]) -> None:
    for name, operator in file.operators.items():
        if key_id(public_key_from_hex(operator.public_key_hex)) != name:
            raise _damaged("lists a key under another key's name")
    signer = file.operators.get(file.operator)
    if signer is None:
        raise _damaged("is signed by somebody it does not list")
    verify(public_key_from_hex(signer.public_key_hex), PURPOSE, document, file.signature)


def _check_ca(ca: x509.Certificate, document: dict[str, Any], signature: str) -> None:
    key = ca.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _damaged("has a CA without a P-384 key")
    try:
        key.verify(
            bytes.fromhex(signature), signed_bytes(PURPOSE, document), ec.ECDSA(hashes.SHA384())
        )
    except (InvalidSignature, ValueError) as error:
        raise _damaged("is not signed by its own CA") from error


def _damaged(how: str) -> TrustError:
    return TrustError(
        f"The consortium's description {how}.",
        fix="Get it again from the operator; do not use this copy.",
        code="STR-207",
    )
