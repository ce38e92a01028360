"""A PACS that speaks classic DICOM (PS3.4 annexes B and C) through pynetdicom."""

import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context
from typing_extensions import override

from stillroom.client.pacs.archive import Archive, Series, Sink, is_match
from stillroom.client.pacs.credentials import tls_context
from stillroom.client.pacs.delivery import Delivery
from stillroom.client.pacs.failures import failure
from stillroom.client.pacs.section import DimseSection
from stillroom.common.errors import DataError

VERIFICATION = "1.2.840.10008.1.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
"""Study Root Query/Retrieve Information Model: FIND (PS3.4 C.3)."""
PENDING = frozenset({0xFF00, 0xFF01})
SUCCESS = 0x0000
CALLING_UNKNOWN, CALLED_UNKNOWN = 3, 7
"""Diagnostics of a rejection by the service user (PS3.8 table 9-21)."""


class DimseArchive(Archive):
    """C-FIND to ask and list, C-MOVE or C-GET to fetch; one association a question."""

    def __init__(self, section: DimseSection) -> None:
        self._section = section
        self._ae = ApplicationEntity(section.calling_ae)
        self._ae.connection_timeout = section.timeout_s
        self._ae.acse_timeout = section.timeout_s
        self._ae.dimse_timeout = section.timeout_s
        self._ae.network_timeout = section.timeout_s
        self._tls: ssl.SSLContext | None = None
        if section.tls:
            self._tls = tls_context(section.ca, section.certificate, section.private_key)
        self._delivery = Delivery(section)
        self._is_reached = False

    @override
    def check(self) -> None:
        with self._associated(VERIFICATION) as association:
            status = association.send_c_echo()
        if status.get("Status") != SUCCESS:
            raise failure("STR-443", "The PACS did not answer C-ECHO.")

    @override
    def studies(self, keys: Mapping[str, str], most: int) -> Sequence[str]:
        found = []
        for study in self._find("STUDY", {"StudyInstanceUID": "", **keys}):
            if (uid := _text(study, "StudyInstanceUID")) and _answers(study, keys):
                found.append(uid)
                if len(found) > most:
                    break
        return found

    @override
    def series(
        self, study_uid: str, keys: Mapping[str, str], modalities: Sequence[str]
    ) -> Sequence[Series]:
        asked = {
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": "",
            "Modality": "",
            "NumberOfSeriesRelatedInstances": "",
            **keys,
        }
        return [
            Series(study_uid, uid, _text(one, "Modality"), _count(one))
            for one in self._find("SERIES", asked)
            if (uid := _text(one, "SeriesInstanceUID"))
            and _text(one, "Modality") in modalities
            and _answers(one, keys)
        ]

    @override
    def instances(self, series: Series) -> Sequence[str]:
        asked = {
            "StudyInstanceUID": series.study_uid,
            "SeriesInstanceUID": series.uid,
            "SOPInstanceUID": "",
        }
        found = (_text(one, "SOPInstanceUID") for one in self._find("IMAGE", asked))
        return list(dict.fromkeys(uid for uid in found if uid))

    @override
    def fetch(self, series: Series, wanted: Sequence[str] | None, sink: Sink) -> None:
        asked = _identifier(
            "SERIES" if wanted is None else "IMAGE",
            {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.uid},
        )
        if wanted is not None:
            asked.SOPInstanceUID = list(wanted)
        self._delivery.fetch(self._associated, asked, sink)

    @override
    def close(self) -> None:
        self._delivery.close()

    def _find(self, level: str, keys: Mapping[str, str]) -> Iterator[Dataset]:
        with self._associated(FIND) as association:
            for status, identifier in association.send_c_find(_identifier(level, keys), FIND):
                code = status.get("Status")
                if code is None:
                    raise failure("STR-440", "The PACS did not answer a query in time.")
                if code in PENDING and identifier is not None:
                    yield identifier
                elif code != SUCCESS:
                    raise failure("STR-453", f"The PACS answered a query with status {code:04X}.")

    @contextmanager
    def _associated(
        self,
        *classes: str,
        contexts: Sequence[PresentationContext] = (),
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[Any] = (),
    ) -> Iterator[Association]:
        """An association that offers ``classes``; the rest is for what C-GET takes on it."""
        section = self._section
        if not self._is_reached and (unreached := self._unreached()):
            raise unreached
        self._is_reached = True
        lines: list[socket.socket] = []
        offered = [build_context(one) for one in classes]
        association = self._ae.associate(
            section.host,
            section.port,
            contexts=[*offered, *contexts],
            ae_title=section.called_ae,
            ext_neg=list(roles),
            evt_handlers=[
                (evt.EVT_CONN_OPEN, lambda event: lines.append(event.assoc.dul.socket.socket)),
                *handlers,
            ],
            tls_args=None if self._tls is None else (self._tls, section.host),
        )
        try:
            if not association.is_established:
                raise self._refusal(association)
            accepted = {context.abstract_syntax for context in association.accepted_contexts}
            if not set(classes) <= accepted:
                raise failure("STR-443", "The PACS does not offer this service to this AE title.")
            yield association
        finally:
            if association.is_established:
                association.release()
            for line in lines:
                line.close()  # pynetdicom leaves a line open that the peer closed first

    def _refusal(self, association: Association) -> DataError:
        """Why there is no association, as far as the PACS or the network says it."""
        said = association.acceptor.primitive
        if association.is_rejected and isinstance(said, A_ASSOCIATE):
            if said.result_source == 1 and said.diagnostic == CALLED_UNKNOWN:
                return failure(
                    "STR-441", "The PACS rejected the association: called AE title not recognised."
                )
            if said.result_source == 1 and said.diagnostic == CALLING_UNKNOWN:
                return failure(
                    "STR-442", "The PACS rejected the association: calling AE title not recognised."
                )
            return failure("STR-443", "The PACS rejected the association.")
        return self._unreached() or failure(
            "STR-443", "The PACS took the connection and closed it without an answer."
        )

    def _unreached(self) -> DataError | None:
        """TCP, then TLS: pynetdicom says only that there was no connection."""
        address = (self._section.host, self._section.port)
        try:
            line = socket.create_connection(address, timeout=min(10.0, self._section.timeout_s))
        except OSError:
            return failure("STR-440", "No connection to the PACS.")
        with line:
            if self._tls is None:
                return None
            try:
                self._tls.wrap_socket(line, server_hostname=self._section.host).close()
            except OSError:
                return failure("STR-445", "The TLS handshake with the PACS failed.")
        return None


def _identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    data = Dataset()
    data.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(data, keyword, value)
    return data


def _text(found: Dataset, keyword: str) -> str:
    value = found.get(keyword)
    return "" if value is None else str(value).strip()


def _count(found: Dataset) -> int | None:
    text = _text(found, "NumberOfSeriesRelatedInstances")
    return int(text) if text.isdigit() else None


def _answers(found: Dataset, keys: Mapping[str, str]) -> bool:
    return all(is_match(keyword, asked, _text(found, keyword)) for keyword, asked in keys.items())
