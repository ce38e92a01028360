"""A PACS that speaks DICOMweb (PS3.18): QIDO-RS and WADO-RS through dicomweb-client."""

import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import requests
from dicomweb_client.api import DICOMwebClient
from requests.adapters import HTTPAdapter
from typing_extensions import override

from stillroom.client.pacs.archive import Archive, Series, Sink, is_match
from stillroom.client.pacs.credentials import read_headers, read_private, tls_context
from stillroom.client.pacs.failures import failure
from stillroom.client.pacs.section import WebSection
from stillroom.common.errors import DataError, StillroomError

STUDY_UID, SERIES_UID, SOP_UID = "0020000D", "0020000E", "00080018"
MODALITY, STATED = "00080060", "00201209"
ANY_SYNTAX = (("application/dicom", "*"),)
MOST_PAGES = 10_000
"""More answers than this to one question are a server that ignores ``offset``."""

Result = TypeVar("Result")
Found = dict[str, Any]


class WebArchive(Archive):
    """QIDO-RS to ask and list, WADO-RS one instance at a time: a broken line costs one slice.

    Objects come in the transfer syntax they are stored in, so no pixel is encoded anew.
    """

    def __init__(self, section: WebSection) -> None:
        self._session = session_for(section)
        self._client = DICOMwebClient(
            section.url, session=self._session, timeout=section.timeout_s, permissive_uid=True
        )
        # A pull tries again by itself, and says so.
        self._client.set_http_retry_params(retry=False)

    @override
    def check(self) -> None:
        _asked(lambda: self._client.search_for_studies(limit=1, fields=["StudyInstanceUID"]))

    @override
    def studies(self, keys: Mapping[str, str], most: int) -> Sequence[str]:
        found = _asked(
            lambda: self._client.search_for_studies(
                search_filters=dict(keys), fields=sorted(keys), limit=most + 1
            )
        )
        return [
            uid
            for study in found
            if (uid := _value(study, STUDY_UID)) and _answers(study, keys, self._client)
        ]

    @override
    def series(
        self, study_uid: str, keys: Mapping[str, str], modalities: Sequence[str]
    ) -> Sequence[Series]:
        found = self._all(
            lambda offset: self._client.search_for_series(
                study_uid,
                search_filters=dict(keys),
                fields=[*sorted(keys), "NumberOfSeriesRelatedInstances"],
                offset=offset or None,
            ),
            SERIES_UID,
        )
        return [
            Series(study_uid, _value(one, SERIES_UID), _value(one, MODALITY), _count(one))
            for one in found
            if _value(one, MODALITY) in modalities and _answers(one, keys, self._client)
        ]

    @override
    def instances(self, series: Series) -> Sequence[str]:
        found = self._all(
            lambda offset: self._client.search_for_instances(
                series.study_uid, series.uid, offset=offset or None
            ),
            SOP_UID,
        )
        return [_value(one, SOP_UID) for one in found]

    @override
    def fetch(self, series: Series, wanted: Sequence[str] | None, sink: Sink) -> None:
        for uid in wanted if wanted is not None else self.instances(series):
            retrieve = partial(
                self._client.retrieve_instance, series.study_uid, series.uid, uid, ANY_SYNTAX
            )
            sink(_asked(retrieve))

    @override
    def close(self) -> None:
        self._session.close()

    def _all(self, page: Callable[[int], list[Found]], key: str) -> list[Found]:
        """Every answer, page by page, each once: a server may cap its answers (PS3.18 8.3.4)."""
        found: dict[str, Found] = {}
        for _ in range(MOST_PAGES):
            before = len(found)
            for one in _asked(partial(page, before)):
                if uid := _value(one, key):
                    found.setdefault(uid, one)
            if len(found) == before:
                return list(found.values())
        raise failure("STR-453", "The PACS does not stop answering one question.")


def session_for(section: WebSection) -> requests.Session:
    """A session that goes to the PACS directly, proves what it must, and follows no redirect.

    Raises:
        ConfigError: A file cannot be read (STR-101).
        TrustError: Others can read a secret (STR-202).
    """
    session = requests.Session()
    # No proxy, no .netrc, no CA of the environment: the way to the PACS is inside the hospital.
    session.trust_env = False
    session.max_redirects = 0
    if section.headers_file is not None:
        session.headers.update(read_headers(section.headers_file))
    if section.user is not None and section.password_file is not None:
        password = read_private(section.password_file, "pacs.web.password_file")
        session.auth = (section.user, password)
    context = tls_context(section.ca, section.certificate, section.private_key)
    session.mount("https://", _Tls(context))
    return session


class _Tls(HTTPAdapter):
    """HTTPS with one context: requests would otherwise bring CAs of its own."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    @override
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    @override
    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context already says it."""


def _asked(question: Callable[[], Result]) -> Result:
    """The answer, or the failure in our words; exceptions of requests carry whole addresses."""
    try:
        return question()
    except StillroomError:
        raise
    except requests.exceptions.SSLError:
        raise failure("STR-445", "The PACS's certificate was not accepted.") from None
    except requests.exceptions.TooManyRedirects:
        raise failure("STR-453", "The PACS sent this site to another address.") from None
    except requests.exceptions.HTTPError as error:
        raise _of_status(0 if error.response is None else error.response.status_code) from None
    except requests.exceptions.Timeout:
        raise failure("STR-440", "The PACS did not answer in time.") from None
    except requests.exceptions.JSONDecodeError:
        raise failure("STR-453", "The PACS's answer is not DICOM JSON.") from None
    except (requests.exceptions.RequestException, OSError):
        raise failure("STR-440", "No connection to the PACS, or it broke off.") from None
    except Exception:  # noqa: BLE001  (a malformed answer can raise anything in three libraries)
        raise failure("STR-453", "The PACS's answer cannot be read as DICOM.") from None


def _of_status(status: int) -> DataError:
    if status in {401, 403}:
        return failure("STR-444", f"The PACS answered {status}.")
    if status == 404:
        return failure(
            "STR-453", "The PACS has no DICOMweb service there, or not this object (404)."
        )
    if status in {429, 502, 503, 504}:
        return failure("STR-440", f"The PACS or what stands before it is too busy ({status}).")
    return failure("STR-453", f"The PACS answered {status}.")


def _answers(found: Found, keys: Mapping[str, str], client: DICOMwebClient) -> bool:
    return all(
        is_match(keyword, asked, _value(found, client.lookup_tag(keyword)))
        for keyword, asked in keys.items()
    )


def _value(found: Found, tag: str) -> str:
    """First value of a DICOM JSON attribute (PS3.18 F.2), as text; empty where absent."""
    values = found.get(tag, {}).get("Value") or [""]
    first = values[0]
    if isinstance(first, dict):
        first = first.get("Alphabetic", "")
    return str(first).strip() if first is not None else ""


def _count(found: Found) -> int | None:
    text = _value(found, STATED)
    return int(text) if text.isdigit() else None
