"""Files of weights over the line: fetched and sent in pieces, each file checked by its digest.

A file is named by the SHA-256 of its bytes. That makes everything repeatable: what a broken line
has carried counts, on both sides and across restarts, and what arrives whole is right or is thrown
away.
"""

import contextlib
import http.client
import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stillroom.client.breaks import Stopped
from stillroom.client.cargo import Incoming, Outgoing
from stillroom.client.compatibility import require_compatible
from stillroom.client.connection import Dialler, Refused, failure, meaning
from stillroom.client.patience import Patience
from stillroom.common.errors import ContractError, StillroomError

log = logging.getLogger(__name__)

PREFIX = "/v1/stillroom/"
PIECE = 128 * 1024
"""Bytes moved at a time; at most one piece that has arrived is lost with a line."""
MOST_WRONG = 2
"""Whole files of another digest before it is no accident."""
MOST_LOG = 17 << 20
"""Longest file of the log: a bundle of 256 entries of 64 KiB."""
MOST_WORDS = 1 << 16
"""Longest answer that is no file, in bytes."""

MOST_MARK = 100
"""Longest text that tells of news."""


class Transfer:
    """Fetches published files and sends a site's own; a broken line is waited out.

    May be used from several threads at once, for different files.
    """

    def __init__(
        self,
        server: str,
        context: Callable[[], ssl.SSLContext],
        stop: threading.Event,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what a connection needs; none is made yet.

        Args:
            server: ``host:port`` of the edge.
            context: Makes a TLS context with this site's present certificate.
            stop: Ends every waiting.
            check: Called before each retry; raises when this site's own certificate is the reason.
        """
        self._dialler = Dialler(server, context)
        self._stop, self._check = stop, check
        self.server_version: str | None = None

    def fetch(self, sha256: str, nbytes: int, into: Path) -> int:
        """Bring a published file to ``into``; returns how many bytes came over the line.

        What a broken line has brought stays in ``<into>.part`` and is not asked for again, by a
        later process either. The digest is checked over the whole file.

        Args:
            sha256: Of the file, and its name.
            nbytes: Its size; more is never read.
            into: Where it goes; a file that is there is replaced.

        Raises:
            Stopped: We were told to stop while waiting.
            ContractError: STR-311, the server has no such file, or it is not what its name says.
            TrustError: STR-201, STR-206; this site or the server is not who it should be.
            ResourceError: STR-503, the disk of this site; STR-506, the proxy.
        """
        part, came = into.with_name(f"{into.name}.part"), 0
        for _ in range(MOST_WRONG):
            with contextlib.closing(Incoming(part, nbytes)) as incoming:
                self._persist(partial(self._fill, incoming, sha256))
                came += incoming.came
                if incoming.digest.hexdigest() == sha256:
                    incoming.put(into)
                    return came
            # Perhaps what an earlier attempt left was damaged; once more from the start, then.
            part.unlink(missing_ok=True)
        raise ContractError(
            "A file of weights from the server does not have the digest it is named by.",
            fix="Ask the operator to restore or to restart the study; nothing of it was used.",
            code="STR-311",
        )

    def send(self, sha256: str, path: Path, nbytes: int) -> int:
        """Have the server hold ``path``; returns how many bytes went over the line.

        Nothing is sent that is there already.

        Args:
            sha256: Of the file, and its name.
            path: The file.
            nbytes: Its size.

        Raises:
            Stopped: We were told to stop while waiting.
            ContractError: STR-311, what arrives is not what its name says; STR-312, the file is
                larger than the server takes.
            TrustError: STR-201, STR-206; this site or the server is not who it should be.
            ResourceError: STR-503, the file cannot be read; STR-506, the proxy.
        """
        with contextlib.closing(Outgoing(path, sha256, nbytes)) as outgoing:
            self._persist(partial(self._pour, outgoing))
            return outgoing.went

    def arrive(self) -> bool:
        """Tell the server that this courier has (re)started: it lets it in, and asks again.

        Returns:
            Whether the server expects this site's key, or will in a moment.

        Raises:
            Stopped: We were told to stop while waiting.
            TrustError: STR-201, STR-206; this site or the server is not who it should be.
            ContractError: STR-216, STR-217; its release and ours do not work together.
            ResourceError: STR-506, the proxy.
        """
        said = dict[str, Any]()

        def tell(_: Patience) -> bool:
            said.update(self._ask("POST", "arrive"))
            return True

        self._persist(tell)
        self.server_version = str(require_compatible(said, self._dialler.server).version)
        return said.get("known") is True

    def news(self, seen: str) -> str | None:
        """A text that is another one once a task may have been pushed since ``seen``.

        Held by the server for two seconds at most.

        Returns:
            None when the server does not say such things, or cannot be reached.
        """
        try:
            mark = self._ask("GET", f"news?seen={quote(seen, safe='')}").get("mark")
        except (OSError, http.client.HTTPException, Refused, StillroomError):
            return None
        return mark if isinstance(mark, str) and len(mark) < MOST_MARK else None

    def published(self, path: str) -> bytes | None:
        """A file of the consortium's log; None where the server has none of that name.

        Raises:
            As ``arrive``.
        """
        found: list[bytes | None] = []

        def attempt(_: Patience) -> bool:
            with self._connection() as line:
                line.request("GET", f"{PREFIX}log/{path}")
                answer = line.getresponse()
                data = answer.read(MOST_LOG)
                if answer.status not in {200, 404}:
                    raise Refused(answer.status, "")
                found.append(data if answer.status == 200 else None)
            return True

        self._persist(attempt)
        return found[-1]

    def vouch(self, note: bytes) -> bool:
        """Hand in a checkpoint that this site has cosigned; False when the server did not take it.

        Raises:
            As ``arrive``.
        """
        taken: list[bool] = []

        def attempt(_: Patience) -> bool:
            with self._connection() as line:
                line.request("POST", f"{PREFIX}cosign", body=note)
                answer = line.getresponse()
                answer.read(MOST_WORDS)
                if answer.status not in {200, 400, 404}:
                    raise Refused(answer.status, "")
                taken.append(answer.status == 200)
            return True

        self._persist(attempt)
        return taken[-1]

    def close(self) -> None:
        """Close connections that are kept open for the next file."""
        self._dialler.close()

    def _persist(self, attempt: Callable[[Patience], bool]) -> None:
        """Repeat ``attempt`` until it says that all is done."""
        patience = Patience(self._stop)
        while not self._stop.is_set():
            try:
                if attempt(patience):
                    return
            except Refused as error:
                if (told := meaning(error, self._dialler.server)) is not None:
                    raise told from error
                log.warning("transfer.retry", extra={"code": error.code or None})
            except (OSError, http.client.HTTPException) as error:
                if (meant := failure(error, self._dialler.server)) is not None:
                    raise meant from error
                self._check()
                log.info("transfer.retry")
            patience.wait()
        raise Stopped

    def _fill(self, incoming: Incoming, sha256: str, patience: Patience) -> bool:
        if incoming.held == incoming.total:
            return True
        with self._connection() as line:
            headers = {"Range": f"bytes={incoming.held}-"} if incoming.held else {}
            line.request("GET", f"{PREFIX}blob/{sha256}", headers=headers)
            answer = line.getresponse()
            if answer.status not in {200, 206}:
                _read(answer)
            if incoming.held and answer.status == 200:
                incoming.restart()  # somebody on the way does not do ranges
            if answer.length != incoming.total - incoming.held:
                raise Refused(404, "STR-311")
            view = memoryview(bytearray(PIECE))
            while count := answer.readinto(view):
                incoming.add(view[:count])
                patience.progress()
                if self._stop.is_set():
                    raise Stopped
        return incoming.held == incoming.total

    def _pour(self, outgoing: Outgoing, patience: Patience) -> bool:
        name = f"upload/{outgoing.sha256}"
        said = self._ask("GET", f"{name}?total={outgoing.total}")
        have = said.get("have")
        if said.get("complete") is True:
            return True
        if type(have) is not int or not 0 <= have <= outgoing.total:
            raise Refused(404, "")
        with self._connection() as line:
            line.putrequest("PUT", f"{PREFIX}{name}?offset={have}&total={outgoing.total}")
            line.putheader("Content-Length", str(outgoing.total - have))
            line.endheaders()
            for piece in outgoing.pieces(have, memoryview(bytearray(PIECE))):
                line.sock.sendall(piece)
                outgoing.went += len(piece)
                patience.progress()
                if self._stop.is_set():
                    raise Stopped
            try:
                return _read(line.getresponse()).get("complete") is True
            except Refused as error:
                outgoing.wrong += error.status == 422
                if error.status != 422 or outgoing.wrong >= MOST_WRONG:
                    raise
                return False

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        with self._connection() as line:
            line.request(method, PREFIX + path)
            return _read(line.getresponse())

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPSConnection]:
        line = self._dialler.take()
        try:
            yield line
        except BaseException:
            line.close()
            raise
        self._dialler.keep(line)


def _read(answer: http.client.HTTPResponse) -> dict[str, Any]:
    """What the server says in words.

    Raises:
        Refused: It says no, or not what it should.
    """
    text = answer.read(MOST_WORDS)
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    if not isinstance(said, dict):
        said = {}
    if answer.status != 200:
        raise Refused(answer.status, str(said.get("code", "")), said)
    return said
