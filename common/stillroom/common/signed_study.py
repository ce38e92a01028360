"""A prepared study with an operator's signature: the only kind that a site works on.

``study.sig`` lies beside ``study.json``. It signs the study's digest, which covers the study
file, every stage's manifest and the digest of every file of initial weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from stillroom.common.errors import TrustError
from stillroom.common.signing import key_id, public_key_from_hex, sign, verify
from stillroom.common.study import PreparedStudy, Section
from stillroom.common.tensorfile import write_durably

SIGNATURE_FILE = "study.sig"
PURPOSE = "study"
MAX_BYTES = 4096
"""A signature file is under 400 bytes; more is not read."""


class StudySignature(Section):
    """What ``study.sig`` holds."""

    format: Literal["stillroom-study-signature-1"] = "stillroom-study-signature-1"
    study: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The study's digest."""
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """The operator's key."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    @classmethod
    def parse(cls, data: bytes) -> "StudySignature":
        """Read the bytes of a signature file.

        Raises:
            TrustError: STR-209, they are not one.
        """
        try:
            if len(data) > MAX_BYTES:
                raise ValueError("too long")
            return cls.model_validate_json(data)
        except (ValidationError, ValueError) as error:
            raise _unsigned("The study's signature file is damaged.") from error


@dataclass(frozen=True, slots=True)
class SignedStudy:
    """A study whose signature held.

    Attributes:
        prepared: The study.
        signature: What an operator signed it with.
    """

    prepared: PreparedStudy
    signature: StudySignature

    @property
    def operator(self) -> str:
        """Key id of the operator who signed it."""
        return self.signature.key_id

    @classmethod
    def load(cls, folder: Path, operators: Mapping[str, str]) -> "SignedStudy":
        """Read a study, prove every file of weights, and prove who signed it.

        Args:
            folder: What ``study prepare`` and ``study sign`` wrote.
            operators: Key id -> public key (hex) of the consortium's operators.

        Raises:
            TrustError: STR-204 a file is missing or damaged; STR-209 the study is not signed, or
                not by one of ``operators``; STR-207 the signature does not hold.
        """
        prepared = PreparedStudy.load(folder)
        trained = {s.name for s in prepared.study.stage if s.exchanges}
        if prepared.stages.keys() != trained:
            raise TrustError(
                "The prepared study lacks weights of a stage, or holds some of no stage.",
                fix="Prepare it again.",
                code="STR-204",
            )
        path = folder / SIGNATURE_FILE
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unsigned("The study is not signed.") from error
        signature = StudySignature.parse(data)
        check_signature(prepared.digest, signature, operators)
        return cls(prepared, signature)


def read_signature(folder: Path) -> str:
    """The text of a prepared study's ``study.sig``, unverified; empty where there is none."""
    try:
        data = (folder / SIGNATURE_FILE).read_bytes()
        return data.decode("utf-8") if len(data) <= MAX_BYTES else ""
    except (OSError, ValueError):
        return ""


def check_signature(digest: str, signature: StudySignature, operators: Mapping[str, str]) -> None:
    """Refuse a signature that no known operator made over exactly this digest. Pure.

    Raises:
        TrustError: STR-209, STR-207.
    """
    if signature.study != digest:
        raise _unsigned("The study's signature is for another study.")
    if signature.key_id not in operators:
        raise _unsigned(
            f"The study is signed with key {signature.key_id}, "
            f"which is none of the {len(operators)} operators known here."
        )
    key = public_key_from_hex(operators[signature.key_id])
    if key_id(key) != signature.key_id:
        raise _unsigned("The consortium's description gives an operator's key a false name.")
    verify(key, PURPOSE, _payload(digest), signature.signature)


def sign_study(folder: Path, key: Ed25519PrivateKey) -> StudySignature:
    """Sign the prepared study in ``folder``, after proving all its files; writes ``study.sig``.

    Raises:
        TrustError: STR-204, the prepared study is damaged.
    """
    digest = PreparedStudy.load(folder).digest
    signature = StudySignature(
        study=digest, key_id=key_id(key), signature=sign(key, PURPOSE, _payload(digest))
    )
    data = json.dumps(signature.model_dump(mode="json"), indent=1) + "\n"
    write_durably(folder / SIGNATURE_FILE, data.encode("ascii"))
    return signature


def refuse_expired(expires: date | None, now: float) -> None:
    """Refuse work on a study after its last day (UTC). Pure.

    Raises:
        TrustError: STR-210.
    """
    if expires is not None and datetime.fromtimestamp(now, UTC).date() > expires:
        raise TrustError(
            f"The study expired on {expires.isoformat()}.",
            fix="Ask the operator for a study with a later date, and consent to that one.",
            code="STR-210",
        )


def _payload(digest: str) -> dict[str, Any]:
    return {"study": digest}


def _unsigned(what: str) -> TrustError:
    return TrustError(
        what,
        fix="Ask the operator for the signed study folder (`stillroom-server study sign`).",
        code="STR-209",
    )
