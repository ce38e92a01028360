"""Telling the server what this site has said: at the courier's start, and whenever it changes.

A withdrawal acts here whether or not the server hears of it; telling it saves the other sites
from waiting, and leaves a signed record on both sides.
"""

import contextlib
import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from stillroom.client.compatibility import version_header
from stillroom.client.consents import ConsentBook
from stillroom.client.proxy import proxy_refused
from stillroom.common.errors import ResourceError

log = logging.getLogger(__name__)

PATH = "/v1/stillroom/consent"
LOOK_S = 1.0
TIMEOUT_S = 30.0


@dataclass(slots=True)
class ConsentPost:
    """Posts every record that counts, once.

    Attributes:
        book: This site's consents.
        server: ``host:port`` of the edge.
        context: Makes a TLS context with this site's present certificate.
    """

    book: ConsentBook
    server: str
    context: Callable[[], ssl.SSLContext]
    told: set[bytes] = field(default_factory=set)

    def tell(self) -> bool:
        """Post what the server has not heard yet; False when it could not be reached."""
        news = [record for record in self.book.all() if record not in self.told]
        if not news:
            return True
        try:
            with httpx.Client(
                verify=self.context(), timeout=TIMEOUT_S, headers=version_header()
            ) as client:
                for record in news:
                    answer = client.post(f"https://{self.server}{PATH}", content=record)
                    if answer.status_code >= 500:
                        return False
                    # A refusal stays one however often it is asked; the server's log says why.
                    self.told.add(record)
                    refused = answer.status_code != 200
                    log.log(
                        logging.WARNING if refused else logging.INFO,
                        "consent.refused" if refused else "consent.told",
                    )
        except httpx.ProxyError as error:
            if str(error).startswith("5"):
                return False
            raise proxy_refused(error) from error
        except httpx.TransportError:
            return False
        return True

    def until(self, stop: threading.Event) -> None:
        """Wait until the server has heard everything, or until ``stop``."""
        while not self.tell() and not stop.wait(LOOK_S):
            pass

    def keep_telling(self, stop: threading.Event) -> None:
        """Look for changes until ``stop``; runs in a thread of its own."""
        while not stop.wait(LOOK_S):
            with contextlib.suppress(ResourceError):
                self.tell()
