"""Every paper that another party wrote ends in a verdict, whatever its bytes are.

Study, signature, manifest, consent, consortium, request for a certificate, token, certificate.
"""

import base64
import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attempts
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from fuzzing import FUZZ, JSONISH, TEXT, damaged, like, verdict
from hypothesis import given
from hypothesis import strategies as st

from stillroom.common.consent import Consent, Withdrawal, give, parse_record, record_bytes, standing
from stillroom.common.consortium import follow, make_consortium, read_consortium
from stillroom.common.enrolment import (
    DescriptionAnswer,
    DescriptionQuestion,
    Enrol,
    KeyRequest,
    Kit,
    RenewAnswer,
    RenewQuestion,
    StatusAnswer,
    StatusQuestion,
    key_request,
    status_question,
)
from stillroom.common.manifest import Manifest
from stillroom.common.pki.issue import issue_site, make_ca, new_key
from stillroom.common.pki.request import read_request
from stillroom.common.pki.verify import verify_site
from stillroom.common.signed_study import SignedStudy, StudySignature, check_signature
from stillroom.common.signing import key_id, new_signing_key, public_key_hex, sign
from stillroom.common.study import Study
from stillroom.server.consents import receive
from stillroom.server.membership import certificate_refusal, read_peer
from stillroom.server.store.members import Issued, Request
from stillroom.server.store.registry import Registry

NOW = datetime(2026, 9, 1, tzinfo=UTC)
KEY, SITE_KEY = new_signing_key(), new_key()
CA, CA_KEY = make_ca("fuzz", 30, NOW)
CONSENT = give(KEY, study="a" * 64, site="harbour", now=int(NOW.timestamp()))
CONSORTIUM = make_consortium("fuzz", CA, CA_KEY, {"ada": KEY.public_key()}, KEY, NOW)
PINNED = read_consortium(CONSORTIUM)
KEYS = key_request(SITE_KEY, KEY)
CSR = x509.load_pem_x509_csr(KEYS.csr.encode()).public_bytes(serialization.Encoding.DER)
SIGNATURE = StudySignature(
    study="a" * 64, key_id=key_id(KEY), signature=sign(KEY, "study", {"study": "a" * 64})
)
CERTIFICATE = issue_site(CA, CA_KEY, SITE_KEY.public_key(), "harbour", NOW, days=2).public_bytes(
    serialization.Encoding.DER
)


@FUZZ
@given(like(record_bytes(CONSENT)))
def test_consents(data: bytes) -> None:
    """A record that says the same when written again; only the signed one is ever given."""
    record = verdict(lambda: parse_record(data))
    if record is None:
        return
    assert isinstance(record, Consent | Withdrawal)
    assert parse_record(record_bytes(record)) == record
    found = standing(
        record, study="a" * 64, site="harbour", key=KEY.public_key(), now=NOW.timestamp()
    )
    assert (found == "given") == (record == CONSENT)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One enrolled site."""
    path = tmp_path_factory.mktemp("registry") / "registry.db"
    with closing(Registry.create(path)) as opened:
        opened.invite("harbour", "t", 1.0)
        request = Request(pem="", spki_sha256="s", signing_key=public_key_hex(KEY), fingerprint="f")
        opened.request("t", request, 1.0)
        opened.enrol("harbour", "f", Issued(pem="", sha256="c", not_after=2.0), 1.0)
        yield opened


@FUZZ
@given(data=like(record_bytes(CONSENT)))
def test_consents_at_the_server(registry: Registry, data: bytes) -> None:
    """Nothing but the site's own signed record is ever kept."""
    verdict(lambda: receive("harbour", data, registry, now=1.0))
    kept = registry.query("SELECT record FROM consents")
    assert kept in ([], [(record_bytes(CONSENT),)])


@FUZZ
@given(like(json.dumps(SIGNATURE.model_dump()).encode()))
def test_study_signatures(data: bytes) -> None:
    """Only the operator's own signature over this digest holds."""
    operators = {key_id(KEY): public_key_hex(KEY)}
    held = verdict(lambda: (check_signature("a" * 64, StudySignature.parse(data), operators), True))
    assert held is None or StudySignature.parse(data) == SIGNATURE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a prepared study is written."""
    return tmp_path_factory.mktemp("study")


@FUZZ
@given(data=like(attempts.PREPARED.model_dump_json().encode()))
def test_prepared_studies(folder: Path, data: bytes) -> None:
    """A study.json of any bytes is refused: its weights are not there, or it is not signed."""
    (folder / "study.json").write_bytes(data)
    assert verdict(lambda: SignedStudy.load(folder, {})) is None


STUDY = json.loads(attempts.PREPARED.study.model_dump_json())


@FUZZ
@given(
    path=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    value=JSONISH,
    more=st.dictionaries(TEXT, JSONISH, max_size=1),
)
def test_study_files(path: list[int], value: Any, more: dict[str, Any]) -> None:
    """Any value in any place of a study file: checked, or a code."""
    study = json.loads(json.dumps(STUDY))
    inner: Any = study
    for step in path[:-1]:
        keys = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys or not isinstance(inner[keys[step % len(keys)]], dict | list):
            break
        inner = inner[keys[step % len(keys)]]
    keys = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
    if keys:
        inner[keys[path[-1] % len(keys)]] = value
    verdict(lambda: Study.parse({**study, **more}))


SPEC = {"name": "w", "shape": [2], "dtype": "float32", "group": "trunk"}


@FUZZ
@given(
    st.dictionaries(st.sampled_from(sorted(SPEC)) | TEXT, JSONISH, max_size=3),
    st.booleans(),
)
def test_manifests(changes: dict[str, Any], again: bool) -> None:
    """A manifest of any values: refused when it is read, or it can be used."""
    tensors = [{**SPEC, **changes}, *([SPEC] if again else [])]
    try:
        manifest = Manifest.model_validate_json(json.dumps({"tensors": tensors}))
    except ValueError:
        return
    assert manifest.nbytes >= 0
    verdict(lambda: manifest.check({}, max_norm=1.0))


@FUZZ
@given(like(CONSORTIUM))
def test_consortia(data: bytes) -> None:
    """Only the description that operator and CA signed is believed, and it does not follow itself."""
    read = verdict(lambda: read_consortium(data))
    assert read is None or json.loads(read.raw) == json.loads(CONSORTIUM)
    assert verdict(lambda: follow(PINNED, data)) is None


def as_pem(der: bytes) -> bytes:
    """A request's bytes as they are sent."""
    text = base64.encodebytes(der).decode()
    return (
        f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n".encode()
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # the parser warns of odd fields
@FUZZ
@given(like(KEYS.csr.encode()) | damaged(CSR).map(as_pem))
def test_requests(data: bytes) -> None:
    """A request for a certificate: a P-384 key that signed it, or a code."""
    read = verdict(lambda: read_request(data.decode("latin-1")))
    assert read is None or read == SITE_KEY.public_key()


MESSAGES = {
    Enrol: Enrol(token="t", keys=KEYS).encode(),
    KeyRequest: KEYS.encode(),
    StatusQuestion: status_question(KEY, NOW).encode(),
    StatusAnswer: StatusAnswer(status="requested", site="harbour").encode(),
    Kit: Kit(site="harbour", certificate="x", consortium="{}").encode(),
    RenewQuestion: RenewQuestion(csr=KEYS.csr).encode(),
    RenewAnswer: RenewAnswer().encode(),
    DescriptionQuestion: DescriptionQuestion(after=1).encode(),
    DescriptionAnswer: DescriptionAnswer(consortium="{}").encode(),
}


@FUZZ
@given(st.sampled_from(list(MESSAGES)).flatmap(lambda m: st.tuples(st.just(m), like(MESSAGES[m]))))
def test_enrolment(paper: tuple[Any, bytes]) -> None:
    """Every message of the enrolment, token included: read and checked, or a code."""
    kind, data = paper
    message = verdict(lambda: kind.parse(data))
    keys = message if isinstance(message, KeyRequest) else getattr(message, "keys", None)
    if keys is not None:
        verdict(keys.check)


@pytest.mark.filterwarnings("ignore::UserWarning")  # the parser warns of odd fields
@FUZZ
@given(damaged(CERTIFICATE))
def test_certificates(data: bytes) -> None:
    """A changed certificate is nobody at the edge, and never one of the consortium's."""
    peer = verdict(lambda: read_peer(data, "TLSv1.3"))
    if peer is not None and data != CERTIFICATE:
        assert certificate_refusal(peer, CA, NOW) is not None
        assert verdict(lambda: verify_site(peer.certificate, CA, NOW)) is None
