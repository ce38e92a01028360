"""This site's consents on disk, and the question that is asked before, during and after all work.

``<exchange>/consents/<digest>.json`` holds the latest record for one study, ``<digest>.history`` every
record there ever was, one a line. Only the command line writes here; courier and runner read.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stillroom.common import consent
from stillroom.common.consent import Record, Standing, parse_record, record_bytes
from stillroom.common.errors import ContractError
from stillroom.common.tensorfile import write_durably


@dataclass(frozen=True, slots=True)
class ConsentBook:
    """Every consent and withdrawal of one site."""

    folder: Path

    @classmethod
    def below(cls, exchange: Path) -> "ConsentBook":
        """The book in a site's exchange folder."""
        return cls(exchange / "consents")

    def latest(self, study: str) -> Record | None:
        """The record that counts for a study; None when there is none.

        Raises:
            ContractError: STR-300, the file is damaged.
        """
        try:
            return parse_record((self.folder / f"{study}.json").read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ContractError(
                "The consent of this site cannot be read.",
                fix="Check the permissions of the exchange folder.",
                code="STR-300",
            ) from error

    def keep(self, record: Record) -> None:
        """Make ``record`` the one that counts.

        A crash between the two writes leaves a history that knows of a record which does not count
        yet; the command has then not reported success, and is given again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        line = record_bytes(record) + b"\n"
        with (self.folder / f"{record.study}.history").open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        write_durably(self.folder / f"{record.study}.json", line)

    def all(self) -> Iterator[bytes]:
        """The bytes of every record that counts, as they are told to the server."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                yield record_bytes(parse_record(path.read_bytes()))
            except (OSError, ContractError):
                continue  # the runner refuses on it, and `consent show` says so


@dataclass(frozen=True, slots=True)
class ConsentCheck:
    """Whether this site may work on one study, asked anew each time: nothing is cached.

    Reading and verifying takes 0.2 ms, a batch takes a hundred times that.

    Attributes:
        book: The site's consents.
        study: The study's digest.
        site: This site.
        key: The public half of its signing key.
    """

    book: ConsentBook
    study: str
    site: str
    key: Ed25519PublicKey

    def standing(self) -> Standing:
        """What the record on disk amounts to now; a damaged one allows nothing."""
        try:
            record = self.book.latest(self.study)
        except ContractError:
            return "invalid"
        return consent.standing(
            record, study=self.study, site=self.site, key=self.key, now=time.time()
        )

    def require(self) -> None:
        """Refuse to go on without a valid consent.

        Raises:
            TrustError: STR-208.
        """
        consent.require_given(self.standing())

    def should_stop(self) -> bool:
        """For ``RecipeContext``: asked before every batch."""
        return self.standing() != "given"


def give_consent(
    book: ConsentBook,
    key: Ed25519PrivateKey,
    *,
    study: str,
    site: str,
    days: int = consent.DEFAULT_DAYS,
) -> consent.Consent:
    """Sign and keep a consent; it supersedes whatever was there."""
    record = consent.give(
        key,
        study=study,
        site=site,
        now=int(time.time()),
        days=days,
        earlier=_readable(book, study),
    )
    book.keep(record)
    return record


def withdraw_consent(
    book: ConsentBook, key: Ed25519PrivateKey, *, study: str, site: str
) -> consent.Withdrawal:
    """Sign and keep a withdrawal; it acts at the runner's next batch."""
    record = consent.withdraw(
        key, study=study, site=site, now=int(time.time()), earlier=_readable(book, study)
    )
    book.keep(record)
    return record


def _readable(book: ConsentBook, study: str) -> Record | None:
    """The record to supersede; a damaged one is superseded by whatever comes."""
    try:
        return book.latest(study)
    except ContractError:
        return None
