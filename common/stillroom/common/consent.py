"""A site's signed yes or no to exactly one study. Pure: records and a time in, a standing out.

A consent names one study digest, and with it every label, stage, round and tensor. It runs out by
itself and is superseded by a withdrawal, which is a signed record of its own; a later consent
supersedes that again. Nothing the server says can stand in for either.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from stillroom.common.canonical import canonical_bytes
from stillroom.common.errors import ContractError, TrustError
from stillroom.common.signing import key_id, sign, verify
from stillroom.common.study import Section, SiteName

DEFAULT_DAYS = 180
SECONDS_PER_DAY = 86400
CLOCK_SKEW_S = 300
"""A consent given this far in the future is taken as given now: clocks differ."""
MAX_BYTES = 4096
"""A record is under 600 bytes; more is not read."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[int, Field(ge=0, lt=2**40)]
"""Seconds since the epoch."""
Standing = Literal["given", "none", "early", "expired", "withdrawn", "invalid"]
"""What a record amounts to at one time; only ``given`` allows anything."""

WORDS: Mapping[Standing, str] = {
    "given": "consent given",
    "none": "no consent given",
    "early": "consent not valid yet",
    "expired": "consent expired",
    "withdrawn": "consent withdrawn",
    "invalid": "consent not signed by this site's registered key",
}
"""For people and for the record of a run."""


class Signed(Section):
    """What every record has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    study: Digest
    site: SiteName
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """The site's signing key."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")] = "0" * 128

    def payload(self) -> dict[str, Any]:
        """What the signature covers: everything but itself."""
        return self.model_dump(mode="json", exclude={"signature"})


class Consent(Signed):
    """The site takes part in this study until ``expires_at``."""

    format: Literal["stillroom-consent-1"] = "stillroom-consent-1"
    given_at: Time
    expires_at: Time

    @property
    def at(self) -> int:
        """When it was signed."""
        return self.given_at


class Withdrawal(Signed):
    """The site takes no further part in this study."""

    format: Literal["stillroom-withdrawal-1"] = "stillroom-withdrawal-1"
    withdrawn_at: Time

    @property
    def at(self) -> int:
        """When it was signed."""
        return self.withdrawn_at


Record = Consent | Withdrawal
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="format")])


def purpose_of(record: Record) -> str:
    """What its signature is for."""
    return "consent" if isinstance(record, Consent) else "withdrawal"


def give(  # who agrees to what, from when to when, signed by whom
    key: Ed25519PrivateKey,
    *,
    study: str,
    site: str,
    now: int,
    days: int = DEFAULT_DAYS,
    earlier: Record | None = None,
) -> Consent:
    """A signed consent to ``study``, later than ``earlier``, so that it supersedes it."""
    given = _after(earlier, now)
    draft = Consent(
        study=study,
        site=site,
        key_id=key_id(key),
        given_at=given,
        expires_at=given + days * SECONDS_PER_DAY,
    )
    return draft.model_copy(update={"signature": sign(key, "consent", draft.payload())})


def withdraw(
    key: Ed25519PrivateKey, *, study: str, site: str, now: int, earlier: Record | None = None
) -> Withdrawal:
    """A signed withdrawal, later than ``earlier``, so that it supersedes it."""
    draft = Withdrawal(
        study=study, site=site, key_id=key_id(key), withdrawn_at=_after(earlier, now)
    )
    return draft.model_copy(update={"signature": sign(key, "withdrawal", draft.payload())})


def _after(earlier: Record | None, now: int) -> int:
    return now if earlier is None else max(now, earlier.at + 1)


def check_record(record: Record, key: Ed25519PublicKey) -> None:
    """Refuse a record that ``key`` did not sign.

    Raises:
        TrustError: STR-207.
    """
    if record.key_id != key_id(key):
        raise TrustError(
            "The consent is signed with another key than this site's.",
            fix="Sign it again with `stillroom-client consent give`.",
            code="STR-207",
        )
    verify(key, purpose_of(record), record.payload(), record.signature)


def standing(
    record: Record | None, *, study: str, site: str, key: Ed25519PublicKey, now: float
) -> Standing:
    """What ``record`` allows ``site`` to do in ``study`` at ``now``."""
    if record is None:
        return "none"
    if record.study != study or record.site != site:
        return "invalid"
    try:
        check_record(record, key)
    except TrustError:
        return "invalid"
    if isinstance(record, Withdrawal):
        return "withdrawn"
    if now < record.given_at - CLOCK_SKEW_S:
        return "early"
    return "given" if now < record.expires_at else "expired"


def supersedes(new: Record, old: Record | None) -> bool:
    """Whether ``new`` takes the place of ``old``: it is later, or a withdrawal of the same second.

    A replayed consent is older than the withdrawal it would undo, and does not.
    """
    if old is None or new.at > old.at:
        return True
    return new.at == old.at and isinstance(new, Withdrawal) and isinstance(old, Consent)


def require_given(found: Standing) -> None:
    """Refuse anything but a valid consent.

    Raises:
        TrustError: STR-208.
    """
    if found != "given":
        raise TrustError(
            f"This site takes no part in the study: {WORDS[found]}.",
            fix="Read it with `stillroom-client consent show`, then give consent or leave it.",
            code="STR-208",
        )


def record_bytes(record: Record) -> bytes:
    """Canonical JSON of a record: the form on disk and on the wire."""
    return canonical_bytes(record.model_dump(mode="json"))


def parse_record(data: bytes) -> Record:
    """The record in ``data``; its signature is not checked here.

    Raises:
        ContractError: STR-300, it is not one. The message quotes nothing of it.
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("too long")
        return _RECORD.validate_json(data)
    except (ValidationError, ValueError) as error:
        raise ContractError(
            "This is not a consent or a withdrawal.",
            fix="Write it again with `stillroom-client consent give` or `withdraw`.",
            code="STR-300",
        ) from error
