"""What a site and the server say to each other while the site is enrolled or renewed. Pure.

The same objects travel online and, for hospitals that allow no call before approval, as files.
Every text is bounded, and every unknown key is refused.
"""

from datetime import datetime
from typing import Annotated, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillroom.common.canonical import digest
from stillroom.common.errors import ContractError
from stillroom.common.pki.request import make_request, read_request, short_fingerprint
from stillroom.common.signing import public_key_from_hex, public_key_hex, sign, verify

CLOCK_S = 300
"""How far the clocks of a site and the server may differ in a signed question."""
MOST_BYTES = 16 * 1024
"""Of one message to the enrolment listener."""

Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Pem = Annotated[str, Field(min_length=1, max_length=4096)]
_Message = TypeVar("_Message", bound="Message")


class Message(BaseModel):
    """Immutable; unknown keys are refused; nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def parse(cls: type[_Message], raw: bytes, *, most: int = MOST_BYTES) -> _Message:
        """The message in ``raw`` (JSON).

        Raises:
            ContractError: STR-300. Too long, no JSON, or not of this form.
        """
        try:
            if len(raw) > most:
                raise ValueError
            return cls.model_validate_json(raw)
        except (ValidationError, ValueError, RecursionError) as error:
            raise ContractError(
                "A message of the enrolment is too long or not of the form it must have.",
                fix="Use the same release of stillroom on both sides.",
            ) from error

    def encode(self) -> bytes:
        """JSON, UTF-8."""
        return self.model_dump_json().encode("utf-8")


class KeyRequest(Message):
    """Both public keys of a site, each proven to be the sender's."""

    csr: Pem
    signing_key: Hex64
    signature: Signature

    def check(self) -> tuple[ec.EllipticCurvePublicKey, str]:
        """The P-384 key and the short fingerprint of both keys.

        Raises:
            TrustError: STR-201 the request, STR-207 the signing key's proof.
        """
        key = read_request(self.csr)
        signing = public_key_from_hex(self.signing_key)
        verify(signing, "enrol", {"csr": digest(self.csr)}, self.signature)
        return key, short_fingerprint(key, signing)


class Enrol(Message):
    """Sent once, with the token the operator handed over."""

    token: Annotated[str, Field(min_length=1, max_length=128)]
    keys: KeyRequest


class StatusQuestion(Message):
    """Has my request been approved? Signed, so that nobody else can ask."""

    signing_key: Hex64
    at: Annotated[int, Field(ge=0, le=2**40)]
    signature: Signature

    def check(self, now: float) -> None:
        """Refuse a question that is old or was signed by another key.

        Raises:
            ContractError: STR-300, the clocks differ by more than five minutes.
            TrustError: STR-207.
        """
        if abs(self.at - now) > CLOCK_S:
            raise ContractError(
                "The question is older or newer than five minutes.",
                fix="Check this machine's clock.",
            )
        key = public_key_from_hex(self.signing_key)
        verify(key, "enrol-status", {"at": self.at}, self.signature)


class StatusAnswer(Message):
    """Where an enrolment stands; the certificate once it is approved."""

    status: Literal["requested", "enrolled"]
    site: Annotated[str, Field(max_length=31)]
    certificate: Pem | None = None


class Kit(Message):
    """What the operator hands back by file: the certificate and the consortium's description."""

    site: Annotated[str, Field(max_length=31)]
    certificate: Pem
    consortium: Annotated[str, Field(max_length=256 * 1024)]


class RenewQuestion(Message):
    """Should I have a newer certificate for this same key?"""

    csr: Pem


class RenewAnswer(Message):
    """The newer certificate; None while the present one is young."""

    certificate: Pem | None = None


class DescriptionQuestion(Message):
    """Which description of the consortium came after the one I have?"""

    after: Annotated[int, Field(ge=0, le=2**40)]
    """When the one I have was issued, in seconds since 1970."""


class DescriptionAnswer(Message):
    """The next description, as its file's text; None when there is none."""

    consortium: Annotated[str, Field(max_length=256 * 1024)] | None = None


def key_request(key: ec.EllipticCurvePrivateKey, signing: Ed25519PrivateKey) -> KeyRequest:
    """The request of a site that holds both keys."""
    csr = make_request(key)
    return KeyRequest(
        csr=csr,
        signing_key=public_key_hex(signing),
        signature=sign(signing, "enrol", {"csr": digest(csr)}),
    )


def status_question(signing: Ed25519PrivateKey, now: datetime) -> StatusQuestion:
    """The signed question of a site that waits."""
    at = int(now.timestamp())
    return StatusQuestion(
        signing_key=public_key_hex(signing),
        at=at,
        signature=sign(signing, "enrol-status", {"at": at}),
    )
