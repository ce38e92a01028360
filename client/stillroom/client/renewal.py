"""The site's certificate renews itself: a question to the server now and then, nothing to type.

The server decides when it is time (from day 20 of 30, or when its operator asks); the key stays
the same. The new certificate replaces the old file in one step, and new connections show it.
"""

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from stillroom.client.compatibility import version_header
from stillroom.client.enrolment import read_certificate
from stillroom.common.enrolment import RenewAnswer, RenewQuestion
from stillroom.common.errors import StillroomError
from stillroom.common.pki.files import check_pair, load_certificate, load_key, write_certificate
from stillroom.common.pki.request import make_request
from stillroom.common.pki.verify import verify_site

log = logging.getLogger(__name__)

PATH = "/v1/stillroom/renew"
EVERY_S = 300.0
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Renewal:
    """Asks for a newer certificate and puts it in place.

    Attributes:
        server: ``host:port`` of the edge.
        ca: The consortium's CA certificate.
        certificate: This site's certificate; replaced when there is a newer one.
        private_key: Its key, which stays.
        context: Makes a TLS context with the present certificate.
        renewed: Called after the file was replaced, to open new connections.
    """

    server: str
    ca: Path
    certificate: Path
    private_key: Path
    context: Callable[[], ssl.SSLContext]
    renewed: Callable[[], None]

    def ask(self) -> bool:
        """Ask once; True when a newer certificate is in place.

        Raises:
            StillroomError: What came back is not a certificate for this site and key.
        """
        key = load_key(self.private_key)
        question = RenewQuestion(csr=make_request(key))
        with httpx.Client(
            verify=self.context(), timeout=TIMEOUT_S, headers=version_header()
        ) as client:
            answer = client.post(f"https://{self.server}{PATH}", content=question.encode())
        if answer.status_code != 200:
            log.warning("renewal.refused")
            return False
        said = RenewAnswer.parse(answer.content)
        if said.certificate is None:
            return False
        fresh, ca = read_certificate(said.certificate), load_certificate(self.ca)
        now = datetime.now(UTC)
        present = verify_site(fresh, ca, now).name
        check_pair(fresh, key)
        # Who we are is decided once, at enrolment. A renewal may not change it.
        if present != verify_site(load_certificate(self.certificate), ca, now).name:
            log.warning("renewal.refused")
            return False
        write_certificate(self.certificate, fresh)
        self.renewed()
        log.info("renewal.done", extra={"site": present})
        return True

    def keep_asking(self, stop: threading.Event, every_s: float = EVERY_S) -> None:
        """Ask at the start and from time to time until ``stop``; runs in a thread of its own."""
        while True:
            try:
                self.ask()
            except (httpx.HTTPError, StillroomError) as error:
                # The present certificate is good for days; the next question may do better.
                log.warning("renewal.retry", extra={"code": getattr(error, "code", None)})
            if stop.wait(every_s):
                return
