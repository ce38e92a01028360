"""What this site agreed to: a study whose signature holds, and its own consent to it.

Courier and runner each open it for themselves and ask it on their own: neither takes the other's
word, and nothing from the server can stand in for it.
"""

import logging
import time
from dataclasses import dataclass

from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook, ConsentCheck
from stillroom.client.operators import OperatorCheck
from stillroom.client.pinning import pinned
from stillroom.common.errors import TrustError
from stillroom.common.pki.files import load_verifying_key
from stillroom.common.signed_study import SignedStudy, refuse_expired
from stillroom.common.study import PreparedStudy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Agreement:
    """One study and this site's word on it.

    Attributes:
        prepared: The study.
        consent: Asked anew each time; None only in a trial without enrolment.
        operators: Whether its signer is in office, asked anew; None only in such a trial.
    """

    prepared: PreparedStudy
    consent: ConsentCheck | None = None
    operators: OperatorCheck | None = None

    @classmethod
    def open(cls, config: SiteConfig) -> "Agreement":
        """The study named in site.toml, proven.

        Raises:
            TrustError: STR-204, it is damaged; STR-207, STR-209, it is not signed by an operator
                of the consortium this site joined; STR-213, it joined none, and site.toml does not
                say ``unsigned_trial``.
            ConfigError: STR-101, a file cannot be read.
        """
        if config.consortium is None:
            if not config.unsigned_trial:
                raise TrustError(
                    "There is no consortium.json: nobody's signature under the study can be checked.",
                    fix="Enrol this site, or restore the file. For a trial on one machine, set "
                    "unsigned_trial = true in site.toml.",
                    code="STR-213",
                )
            log.warning("site.unsigned_trial")
            return cls(PreparedStudy.load(config.study))
        signed = SignedStudy.load(config.study, pinned(config.consortium).operator_keys)
        digest = signed.prepared.digest
        operators = OperatorCheck(config.consortium, digest, signed.signature)
        check = ConsentCheck(
            ConsentBook.below(config.exchange),
            digest,
            config.site,
            load_verifying_key(config.signing_key),
        )
        return cls(signed.prepared, check, operators)

    def require(self) -> None:
        """Refuse to work, or to go on, or to answer.

        Raises:
            TrustError: STR-208 without a valid consent, STR-209 when the operator who signed the
                study has left office, STR-210 after the study's last day.
        """
        refuse_expired(self.prepared.study.study.expires, time.time())
        if self.operators is not None:
            self.operators.require()
        if self.consent is not None:
            self.consent.require()

    def should_stop(self) -> bool:
        """Asked before every batch: a withdrawal does not wait for the end of a round."""
        return any(
            check is not None and check.should_stop() for check in (self.consent, self.operators)
        )
