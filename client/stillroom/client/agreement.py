"""What this site agreed to: a study whose signature holds, and its own consent to it.

Courier and runner each open it for themselves and ask it on their own: neither takes the other's
word, and nothing from the server can stand in for it.
"""

import logging
import time
from dataclasses import dataclass

from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook, ConsentCheck
from stillroom.client.pinning import pinned
from stillroom.common.pki.files import load_verifying_key
from stillroom.common.signed_study import SignedStudy, refuse_expired
from stillroom.common.study import PreparedStudy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Agreement:
    """One study and this site's word on it.

    Attributes:
        prepared: The study.
        consent: Asked anew each time; None only at a site that never enrolled.
    """

    prepared: PreparedStudy
    consent: ConsentCheck | None = None

    @classmethod
    def open(cls, config: SiteConfig) -> "Agreement":
        """The study named in site.toml, proven.

        Raises:
            TrustError: STR-204, it is damaged; STR-207, STR-209, it is not signed by an operator
                of the consortium this site joined.
            ConfigError: STR-101, a file cannot be read.
        """
        if config.consortium is None:
            # Without enrolment there is no certificate either: a trial on one machine.
            log.warning("site.not_enrolled")
            return cls(PreparedStudy.load(config.study))
        signed = SignedStudy.load(config.study, pinned(config.consortium).operator_keys)
        check = ConsentCheck(
            ConsentBook.below(config.state),
            signed.prepared.digest,
            config.site,
            load_verifying_key(config.signing_key),
        )
        return cls(signed.prepared, check)

    def require(self) -> None:
        """Refuse to work, or to go on, or to answer.

        Raises:
            TrustError: STR-208 without a valid consent, STR-210 after the study's last day.
        """
        refuse_expired(self.prepared.study.study.expires, time.time())
        if self.consent is not None:
            self.consent.require()

    def should_stop(self) -> bool:
        """Asked before every batch: a withdrawal does not wait for the end of a round."""
        return self.consent is not None and self.consent.should_stop()
