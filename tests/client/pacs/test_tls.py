"""TLS to a PACS, both ways of speaking, with a CA of the hospital's own; peers are small servers here."""

import datetime as dt
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pynetdicom.ae import ApplicationEntity
from typing_extensions import override

from stillroom.client.pacs.archive import Archive, Series
from stillroom.client.pacs.delivery import Delivery
from stillroom.client.pacs.dimse import DimseArchive
from stillroom.client.pacs.opening import open_archive
from stillroom.client.pacs.section import PacsSection
from stillroom.common.errors import DataError


@dataclass(frozen=True)
class Paper:
    """A certificate for 127.0.0.1 that is its own CA, and its key."""

    certificate: Path
    key: Path


def paper(folder: Path, name: str) -> Paper:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    made = Paper(folder / f"{name}.pem", folder / f"{name}.key")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    made.key.chmod(0o600)
    return made


class Answers(http.server.BaseHTTPRequestHandler):
    """QIDO-RS of an empty archive, and a redirect to it."""

    def do_GET(self) -> None:
        """One answer for all."""
        moved = "moved" in self.path
        self.send_response(302 if moved else 200)
        if moved:
            self.send_header("Location", "/dicom-web/studies")
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    @override
    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    own = paper(tmp_path, "pacs")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def check(folder: Path, **ways: Any) -> str:
    """Code of the failure; empty where the PACS answers."""
    archive = open_archive(PacsSection.model_validate({"folder": folder / "data"} | ways))
    try:
        archive.check()
    except DataError as error:
        return error.code
    finally:
        archive.close()
    return ""


def test_dicomweb_over_tls(web: str, tmp_path: Path) -> None:
    """The named CA is the only one that counts, and a redirect is not followed."""
    other = paper(tmp_path, "other")
    ours, url = tmp_path / "pacs.pem", f"{web}/dicom-web"

    assert check(tmp_path, web={"url": url, "ca": ours}) == ""
    assert check(tmp_path, web={"url": url, "ca": other.certificate}) == "STR-445"
    assert check(tmp_path, web={"url": url}) == "STR-445"
    assert check(tmp_path, web={"url": f"{web}/moved", "ca": ours}) == "STR-453"


def test_classic_dicom_over_tls(tmp_path: Path) -> None:
    """C-ECHO with a certificate on both sides; another CA is STR-445."""
    pacs, site, other = (paper(tmp_path, name) for name in ("pacs", "site", "other"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(site.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pacs.certificate, pacs.key)
    receiver = ApplicationEntity("PACSA")
    receiver.add_supported_context("1.2.840.10008.1.1")
    server = receiver.start_server(("127.0.0.1", 0), block=False, ssl_context=context)
    dimse = {
        "host": "127.0.0.1", "port": server.server_address[1], "called_ae": "PACSA", "calling_ae": "FLSITE",
        "retrieve": "get", "tls": True, "certificate": site.certificate, "private_key": site.key,
    }  # fmt: skip
    try:
        assert check(tmp_path, dimse=dimse | {"ca": pacs.certificate}) == ""
        assert check(tmp_path, dimse=dimse | {"ca": other.certificate}) == "STR-445"
    finally:
        server.shutdown()


@dataclass(frozen=True)
class Secured:
    """An Orthanc that speaks DICOM over TLS alone, and papers of it, of this site and of strangers."""

    orthanc: Any
    folder: Path

    def move(self, **changes: Any) -> Any:
        """``[pacs.dimse]`` for C-MOVE to a port here, both over TLS."""
        papers = {
            "ca": self.folder / "pacs.pem",
            "certificate": self.folder / "site.pem",
            "private_key": self.folder / "site.key",
        }
        dimse = {"tls": True, "retrieve": "move", "timeout_s": 10} | papers | changes
        return self.orthanc.dimse(self.folder, dimse=dimse).dimse

    def speak(self, *, tls: bool) -> None:
        """Tell it how this site's port is spoken to."""
        site = {
            "AET": "FLSITE",
            "Host": "127.0.0.1",
            "Port": self.orthanc.store,
            "UseDicomTls": tls,
        }
        allow = {f"Allow{what}": True for what in ("Echo", "Find", "Move")}
        self.orthanc.ask("PUT", "/modalities/site", json=site | allow)


@pytest.fixture(scope="module")
def secured(
    start_orthanc: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    pacs, site, _ = (paper(folder, name) for name in ("pacs", "site", "other"))
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(pacs.certificate),
        "DicomTlsPrivateKey": str(pacs.key),
        "DicomTlsTrustedCertificates": str(site.certificate),
        "DicomTlsRemoteCertificateRequired": True,
        "DatabaseServerIdentifier": "secured",
        "Plugins": [],
    }
    with start_orthanc(folder, site={"UseDicomTls": True}, **settings) as orthanc:
        yield Secured(orthanc, folder)


def fetched(archive: Archive, slices: Any) -> list[Any]:
    """What a series brings; closes the archive."""
    got: list[Any] = []
    series = Series(slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID, "CT", len(slices))
    try:
        assert archive.studies({"AccessionNumber": "ACC-1"}, 5) == [series.study_uid]
        archive.fetch(series, None, got.append)
    finally:
        archive.close()
    return got


def refused(archive: Archive, slices: Any) -> str:
    with pytest.raises(DataError) as caught:
        fetched(archive, slices)
    return caught.value.code


def test_a_real_pacs_moves_over_tls(secured: Secured, ct_series: Callable[..., Any]) -> None:
    """Query and delivery, each with a certificate on both sides; whatever does not fit is STR-445."""
    secured.orthanc.clear()
    slices = ct_series(2)
    secured.orthanc.put(*slices)

    assert len(fetched(DimseArchive(secured.move()), slices)) == 2
    stranger = {"ca": secured.folder / "other.pem"}
    assert refused(DimseArchive(secured.move(**stranger)), slices) == "STR-445"
    own = {"certificate": secured.folder / "other.pem", "private_key": secured.folder / "other.key"}
    assert refused(DimseArchive(secured.move(**own)), slices) in {"STR-443", "STR-445"}

    # The query goes through; whoever comes to store_port shows a certificate of another CA.
    archive = DimseArchive(secured.move())
    archive._delivery = Delivery(secured.move(**stranger))
    assert refused(archive, slices) == "STR-445"
    # Or no certificate at all.
    secured.speak(tls=False)
    try:
        assert refused(DimseArchive(secured.move()), slices) == "STR-445"
    finally:
        secured.speak(tls=True)
