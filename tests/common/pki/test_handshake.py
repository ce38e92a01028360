"""The certificates at work: real mutual TLS 1.3 handshakes between OpenSSL and itself."""

import contextlib
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from stillroom.common.pki.files import write_certificate, write_key
from stillroom.common.pki.issue import issue_server, issue_site, make_ca, new_key
from stillroom.common.pki.verify import verify_site

PATIENCE_S = 10


@dataclass(frozen=True)
class Papers:
    """Files one process would be given: its chain, and the CA it trusts."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class World:
    """A consortium on disk, as of today: OpenSSL reads the machine's clock."""

    server: Papers
    site: Papers
    stranger: Papers
    expired: Papers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Our server and site, a site of a CA with the same name, and a site that did not renew."""
    folder, now = tmp_path_factory.mktemp("tls"), datetime.now(UTC)
    then = now - timedelta(days=60)
    ca, ca_key = make_ca("Example consortium", 365, then)
    other, other_key = make_ca("Example consortium", 365, then)
    write_certificate(folder / "ca.pem", ca)
    keys = {name: new_key() for name in ("server", "site", "stranger", "expired")}
    public = {name: key.public_key() for name, key in keys.items()}
    certificates = {
        "server": issue_server(ca, ca_key, public["server"], ["localhost"], now),
        "site": issue_site(ca, ca_key, public["site"], "north", now),
        "stranger": issue_site(other, other_key, public["stranger"], "north", now),
        "expired": issue_site(ca, ca_key, public["expired"], "north", then),
    }
    for name, key in keys.items():
        write_key(folder / f"{name}.key", key)
        write_certificate(folder / f"{name}.pem", certificates[name])
    papers = {
        name: Papers(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
        for name in keys
    }
    return World(**papers)


def server_context(papers: Papers) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(papers.certificate, papers.key)
    context.load_verify_locations(papers.ca)
    return context


def client_context(papers: Papers, *, show: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(papers.ca)
    # What Python 3.13 turns on by default: RFC 5280 to the letter.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    if show:
        context.load_cert_chain(papers.certificate, papers.key)
    return context


def answer(context: ssl.SSLContext, end: socket.socket) -> tuple[str | None, bytes | None]:
    """Serve one byte; the TLS version and the certificate that was shown."""
    with end, context.wrap_socket(end, server_side=True) as tls:
        tls.sendall(tls.recv(1))
        return tls.version(), tls.getpeercert(binary_form=True)


def meet(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost"
) -> tuple[str | None, bytes | None]:
    """One handshake and one byte each way over a socket pair.

    Raises:
        ssl.SSLError: The server refused the client (its reason), or else the client's reason.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    theirs.settimeout(PATIENCE_S)
    refusal: OSError | None = None
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(answer, server, theirs)
        try:
            with ours, client.wrap_socket(ours, server_hostname=host) as tls:
                tls.sendall(b"?")
                # In TLS 1.3 the client finishes first: a refusal arrives with the first read.
                assert tls.recv(1) == b"?"
        except OSError as error:
            refusal = error
    if isinstance(refusal, ssl.SSLCertVerificationError):
        with contextlib.suppress(OSError):
            served.result()
        raise refusal
    return served.result()


def test_site_and_server_meet_over_tls_1_3(world: World) -> None:
    """Both sides verify each other, and what the server sees is the site."""
    version, der = meet(server_context(world.server), client_context(world.site))

    assert version == "TLSv1.3"
    assert der is not None
    ca = x509.load_pem_x509_certificate(world.site.ca.read_bytes())
    identity = verify_site(x509.load_der_x509_certificate(der), ca, datetime.now(UTC))
    assert identity.name == "north"


def test_no_certificate_no_connection(world: World) -> None:
    """A peer that shows nothing is refused in the handshake."""
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        meet(server_context(world.server), client_context(world.site, show=False))


def test_certificate_of_another_ca_is_refused(world: World) -> None:
    """A CA that copied our name did not copy our key."""
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        meet(server_context(world.server), client_context(world.stranger))


def test_expired_certificate_is_refused(world: World) -> None:
    """A site that did not renew is out, whoever it is."""
    with pytest.raises(ssl.SSLError, match="has expired"):
        meet(server_context(world.server), client_context(world.expired))


def test_server_certificate_cannot_play_a_site(world: World) -> None:
    """OpenSSL enforces the purpose before our own check does."""
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        meet(server_context(world.server), client_context(world.server))


def test_site_certificate_cannot_play_the_server(world: World) -> None:
    """One hospital cannot pose as the coordinator towards another."""
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate purpose"):
        meet(server_context(world.site), client_context(world.site))


def test_server_must_be_the_one_that_was_dialled(world: World) -> None:
    """The right CA is not enough: the host must be in the certificate."""
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        meet(server_context(world.server), client_context(world.site), host="fl.example.org")
