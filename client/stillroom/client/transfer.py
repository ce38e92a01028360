"""Files of weights over the line: fetched and sent in pieces, each file checked by its digest."""

import ssl
import threading
from collections.abc import Callable
from pathlib import Path


class Transfer:
    """Fetches published files and sends a site's own; a broken line is waited out.

    May be used from several threads at once.
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
        self._server, self._context, self._stop, self._check = server, context, stop, check

    def fetch(self, sha256: str, nbytes: int, into: Path) -> int:
        """Bring a published file to ``into``, durably; returns how many bytes came over the line.

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
        raise NotImplementedError

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
            ResourceError: STR-506, the proxy.
        """
        raise NotImplementedError

    def arrive(self) -> None:
        """Tell the server that this courier has (re)started, so that it asks again.

        Raises:
            Stopped: We were told to stop while waiting.
            TrustError: STR-201, STR-206; this site or the server is not who it should be.
            ResourceError: STR-506, the proxy.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close connections that are kept open for the next file."""
