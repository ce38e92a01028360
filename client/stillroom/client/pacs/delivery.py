"""How instances come from a classic PACS: to a port opened here (C-MOVE), or back along the line (C-GET)."""

import ssl
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import ALL_TRANSFER_SYNTAXES, build_role, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from typing_extensions import override

from stillroom.client.pacs import kinds
from stillroom.client.pacs.archive import Sink, StrayError
from stillroom.client.pacs.credentials import tls_context
from stillroom.client.pacs.failures import failure
from stillroom.client.pacs.section import DimseSection
from stillroom.common.errors import ResourceError, StillroomError

MOVE, GET = "1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.5.1.4.1.2.2.3"
"""Study Root Query/Retrieve Information Model: MOVE, GET (PS3.4 C.3)."""
Associate = Callable[..., AbstractContextManager[Association]]

HANDSHAKE_S = 10.0
SUCCESS = 0x0000
NOT_ASKED, NO_ROOM = 0xA900, 0xA700
"""What the PACS is told about an instance that is refused, and of one there is no room for (PS3.4 B.2.3)."""


class Delivery:
    """One retrieval at a time; the port is open from the first one until ``close``."""

    def __init__(self, section: DimseSection) -> None:
        self._section = section
        self._server: Any = None
        self._sink: Sink | None = None
        self._failed: StillroomError | None = None
        self._arrived = 0
        self._strangers = 0
        self._lock = threading.Lock()

    def fetch(self, associate: Associate, asked: Dataset, sink: Sink) -> None:
        """Ask for ``asked`` and hand what comes to ``sink``.

        Raises:
            DataError: STR-445 the PACS came to ``store_port`` without TLS that holds, STR-451 nothing
                could be sent, STR-453 another status, or what ``sink`` raised.
            ResourceError: Another program has ``store_port`` (STR-501).
        """
        with self._lock:
            self._sink, self._failed, self._arrived, self._strangers = sink, None, 0, 0
        try:
            statuses = self._get(associate, asked) if self._is_get else self._move(associate, asked)
        finally:
            with self._lock:
                self._sink = None
        if self._failed is not None:
            raise self._failed
        if self._strangers and not self._arrived:
            raise failure("STR-445", "The TLS handshake of the PACS with store_port failed.")
        _judge(statuses, self._arrived, is_move=not self._is_get)

    def close(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    @property
    def _is_get(self) -> bool:
        return self._section.retrieve == "get"

    def _move(self, associate: Associate, asked: Dataset) -> Dataset:
        if self._server is None:
            self._server = self._listen()
        with associate(MOVE) as association:
            return _last(association.send_c_move(asked, self._section.calling_ae, MOVE))

    def _get(self, associate: Associate, asked: Dataset) -> Dataset:
        contexts = [build_context(one, list(ALL_TRANSFER_SYNTAXES)) for one in kinds.RECEIVED]
        roles = [build_role(one, scp_role=True) for one in kinds.RECEIVED]
        handlers = [(evt.EVT_C_STORE, self._take)]
        with associate(GET, contexts=contexts, roles=roles, handlers=handlers) as association:
            return _last(association.send_c_get(asked, GET))

    def _listen(self) -> Any:
        """Open ``store_port``: only for our own AE title, only while a pull runs."""
        section = self._section
        receiver = ApplicationEntity(section.calling_ae)
        receiver.require_called_aet = True
        receiver.network_timeout = receiver.dimse_timeout = section.timeout_s
        for one in kinds.RECEIVED:
            receiver.add_supported_context(one, list(ALL_TRANSFER_SYNTAXES))
        context = None
        if section.tls:
            context = tls_context(
                section.ca, section.certificate, section.private_key, is_server=True
            )
            context.sslsocket_class = self._counting()
        try:
            return receiver.start_server(
                (section.listen, section.store_port),
                block=False,
                evt_handlers=[(evt.EVT_C_STORE, self._take)],
                ssl_context=context,
            )
        except OSError:
            raise ResourceError(
                f"Port {section.store_port} (store_port) cannot be opened here.",
                fix="End the program that uses it, or agree on another port with the PACS.",
                code="STR-501",
            ) from None

    def _counting(self) -> type[ssl.SSLSocket]:
        """Sockets that count failed handshakes, which pynetdicom drops without a word.

        It shakes hands where it accepts: whoever connects and says nothing would keep the PACS out.
        """

        def count() -> None:
            with self._lock:
                self._strangers += 1

        class Counting(ssl.SSLSocket):
            @override
            def do_handshake(self, block: bool = False) -> None:
                self.settimeout(HANDSHAKE_S)
                try:
                    super().do_handshake(block)
                except OSError:
                    count()
                    raise
                self.settimeout(None)

        return Counting

    def _take(self, event: evt.Event) -> int:
        """C-STORE: our answer is the status. Once one instance was refused, so are the rest."""
        with self._lock:
            if self._sink is None or self._failed is not None:
                return NOT_ASKED
            try:
                instance = event.dataset
                instance.file_meta = event.file_meta
                self._sink(instance)
            except StrayError:
                return NOT_ASKED
            except StillroomError as error:
                self._failed = error
                return NO_ROOM if error.code == "STR-452" else NOT_ASKED
            except Exception:  # noqa: BLE001  (a malformed object can raise anything)
                self._failed = failure("STR-453", "The PACS sent an object that cannot be read.")
                return NOT_ASKED
            self._arrived += 1
            return SUCCESS


def _last(responses: Any) -> Dataset:
    """The final response; pending ones only count."""
    last = Dataset()
    for status, _ in responses:
        last = status
    return last


def _judge(status: Dataset, arrived: int, *, is_move: bool) -> None:
    """Raise for what the final status says, unless the counting that follows will say it better."""
    code = status.get("Status")
    if code is None:
        raise failure("STR-440", "The PACS broke off while it was sending.")
    if code == SUCCESS or arrived:
        return
    # A destination that is unknown or does not answer: A801 and A702 by the standard (PS3.4 C.4.2.1.5),
    # C000 with Orthanc, B000 with others.
    if is_move:
        raise failure("STR-451", f"The PACS could not send to store_port (status {code:04X}).")
    raise failure("STR-453", f"The PACS answered a retrieval with status {code:04X}.")
