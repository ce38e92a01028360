"""The consortium's description stays as new as the server's: an operator who left loses this site.

What was pinned at enrolment is the root. A newer description counts only when it follows from the
present one (``common.consortium.follow``): same CA, later, and signed by an operator known so far.
The server can keep a newer one from us; it cannot make one.
"""

import logging
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from stillroom.client.compatibility import version_header
from stillroom.client.pinning import pinned
from stillroom.common.consortium import Consortium, follow
from stillroom.common.enrolment import DescriptionAnswer, DescriptionQuestion
from stillroom.common.errors import ContractError, StillroomError
from stillroom.common.tensorfile import write_durably

log = logging.getLogger(__name__)

PATH = "/v1/stillroom/consortium"
EVERY_S = 3600.0
TIMEOUT_S = 10.0
MOST_BYTES = 1 << 19
MOST_STEPS = 64
"""Descriptions taken in one go; a server that has more is asked again in an hour."""


@dataclass(frozen=True, slots=True)
class Descriptions:
    """Asks for newer descriptions and puts them in place.

    Attributes:
        server: ``host:port`` of the edge.
        path: ``consortium.json``; ``consortium.history`` beside it holds every earlier one.
        context: Makes a TLS context with this site's present certificate.
    """

    server: str
    path: Path
    context: Callable[[], ssl.SSLContext]

    def ask(self) -> int:
        """Follow the server to its present description; how many steps that took.

        Raises:
            StillroomError: What came back does not follow from the present description
                (STR-207, STR-212, STR-214); the present one stays.
        """
        with httpx.Client(
            verify=self.context(), timeout=TIMEOUT_S, headers=version_header()
        ) as client:
            for step in range(MOST_STEPS):
                present = pinned(self.path)
                raw = self._next(client, present)
                if raw is None:
                    return step
                self._put(present, follow(present, raw))
        return MOST_STEPS

    def ask_once(self) -> None:
        """Ask, and go on with the present description where that fails: all that is lost is news."""
        try:
            self.ask()
        except (httpx.HTTPError, OSError, StillroomError) as error:
            log.warning("consortium.not_renewed", extra={"code": getattr(error, "code", None)})

    def keep_asking(self, stop: threading.Event, every_s: float = EVERY_S) -> None:
        """Ask from time to time until ``stop``; runs in a thread of its own."""
        while not stop.wait(every_s):
            self.ask_once()

    def _next(self, client: httpx.Client, present: Consortium) -> bytes | None:
        question = DescriptionQuestion(after=int(present.issued_at.timestamp()))
        answer = client.post(f"https://{self.server}{PATH}", content=question.encode())
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None  # a server without a description of its own
        if answer.status_code != httpx.codes.OK:
            raise ContractError(
                "The server did not say whether there is a newer description.",
                fix="Ask the operator to look at the server's log.",
            )
        said = DescriptionAnswer.parse(answer.content, most=MOST_BYTES)
        return None if said.consortium is None else said.consortium.encode("utf-8")

    def _put(self, present: Consortium, fresh: Consortium) -> None:
        # The old one first: a crash in between leaves it in both places, and it is written again.
        with self.path.with_name("consortium.history").open("ab") as stream:
            stream.write(present.raw + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        write_durably(self.path, fresh.raw)
        gone = len(present.operators.keys() - fresh.operators.keys())
        new = len(fresh.operators.keys() - present.operators.keys())
        log.info("consortium.renewed", extra={"note": f"{new} operators came, {gone} left"})
