"""The handshake matrix: everybody who must not get in, as data, and the one server they try."""

import base64
import contextlib
import datetime as dt
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stillroom.common.consortium import read_consortium
from stillroom.common.enrolment import KeyRequest, key_request
from stillroom.common.pki.files import load_certificate, load_key, write_certificate, write_key
from stillroom.common.pki.issue import issue_site, make_ca, new_key
from stillroom.common.signing import new_signing_key
from stillroom.server.config import ServerConfig
from stillroom.server.enrolment import Authority, checked, enrol_by_file
from stillroom.server.foundation import Papers, Ports, found
from stillroom.server.store.registry import Registry

PULL = "/v1/fleet/pull-messages"
DAY = dt.timedelta(days=1)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass(frozen=True)
class Bench:
    """A founded consortium, its live server, and the papers of good and bad sites."""

    papers: Papers
    sites: Path
    ports: Ports
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> ServerConfig:
        """server.toml as the server reads it."""
        return ServerConfig.load(self.papers.config)

    @property
    def edge_record(self) -> dict[str, dict[str, int]]:
        """What the edge has counted so far."""
        try:
            return json.loads((self.config.state / "edge" / "edge.json").read_text())
        except FileNotFoundError:
            return {"refused": {}, "handshakes_refused": {}}

    def public_key(self, who: str) -> str:
        """The node key as Flower writes it into its header."""
        key = load_certificate(self.sites / f"{who}.pem").public_key()
        pem = key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.b64encode(pem).decode()

    def context(self, certificate: str | None, key: str | None = None) -> ssl.SSLContext:
        """What somebody shows; None shows nothing."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(self.papers.ca)
        if certificate is not None:
            made.load_cert_chain(
                self.sites / f"{certificate}.pem", self.sites / f"{key or certificate}.key"
            )
        return made

    def ask(
        self, tls: ssl.SSLContext | None, head: str | bytes, *, port: int | None = None
    ) -> bytes:
        """What comes back for one request; empty when it is refused before HTTP."""
        data = head if isinstance(head, bytes) else head.encode()
        raw = socket.create_connection(("127.0.0.1", port or self.ports.edge), timeout=10)
        with raw:
            try:
                if tls is None:
                    raw.sendall(data)
                    return raw.recv(4096)
                with tls.wrap_socket(raw, server_hostname="127.0.0.1") as line:
                    line.sendall(data)
                    return line.recv(4096)
            except (ssl.SSLError, ConnectionError):
                return b""


def request(path: str, key: str | None, **headers: str) -> str:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Length: 0"]
    if key is not None:
        lines.append(f"flwr-public-key: {key}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""])


Attempt = Callable[[Bench], bytes]


@dataclass(frozen=True)
class Case:
    """One way of trying to get in.

    Attributes:
        name: In words.
        attempt: Tries it; returns the bytes the server answered with.
        cause: Named cause in the edge's log.
        where: ``tls`` (no byte of HTTP), ``401`` (before Flower) or ``enrolment``.
    """

    name: str
    attempt: Attempt
    cause: str
    where: str = "tls"
    tags: tuple[str, ...] = field(default=())


def shown(certificate: str | None, key: str | None = None, *, path: str = PULL) -> Attempt:
    """Show a certificate and ask for messages under its own node key."""
    return lambda bench: bench.ask(
        bench.context(certificate, key),
        request(path, None if certificate is None else bench.public_key(certificate)),
    )


def under_key_of(other: str) -> Attempt:
    return lambda b: b.ask(b.context("north"), request(PULL, b.public_key(other)))


def without_the_key(bench: Bench) -> bytes:
    """South's certificate, and a key file that claims south's public point over north's scalar.

    OpenSSL compares the public halves alone when it loads a pair, so this client does send south's
    certificate; what it signs the handshake with is not south's key.
    """
    mine, theirs = (
        load_key(bench.sites / f"{who}.key")
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for who in ("north", "south")
    )
    der = load_key(bench.sites / "north.key").private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert mine in der
    text = base64.encodebytes(der.replace(mine, theirs)).decode()
    path = bench.sites / "chimera.key"
    path.write_text(f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n")
    return bench.ask(bench.context("south", "chimera"), request(PULL, bench.public_key("south")))


def old_tls(bench: Bench) -> bytes:
    context = bench.context("north")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return bench.ask(context, request(PULL, bench.public_key("north")))


def plaintext(bench: Bench) -> bytes:
    return bench.ask(None, request(PULL, bench.public_key("north")))


def captured(bench: Bench, *, at: float) -> dict[str, str]:
    """Flower's three headers as north made them at ``at``: what somebody could have captured."""
    from flwr.supercore.primitives.asymmetric import sign_message

    stamp = dt.datetime.fromtimestamp(at, dt.UTC).isoformat()
    signature = sign_message(load_key(bench.sites / "north.key"), stamp.encode("ascii"))
    return {
        "flwr_timestamp": stamp,
        "flwr_signature": base64.b64encode(signature).decode("ascii"),
    }


def replayed_by_another(bench: Bench) -> bytes:
    headers = captured(bench, at=time.time())
    return bench.ask(bench.context("south"), request(PULL, bench.public_key("north"), **headers))


def activation(bench: Bench, *, at: float) -> bytes:
    """North says that it is here, under headers it made at ``at``."""
    from flwr.proto.fleet_pb2 import ActivateNodeRequest

    key = base64.b64decode(bench.public_key("north"))
    body = ActivateNodeRequest(public_key=key, heartbeat_interval=30).SerializeToString()
    lines = [
        "POST /v1/fleet/activate-node HTTP/1.1",
        "Host: x",
        "Content-Type: application/protobuf",
        "Accept: application/protobuf",
        f"Content-Length: {len(body)}",
        f"flwr-public-key: {bench.public_key('north')}",
        *(f"{k.replace('_', '-')}: {v}" for k, v in captured(bench, at=at).items()),
    ]
    head = "\r\n".join([*lines, "", ""]).encode() + body
    return bench.ask(bench.context("north"), head)


def replayed_late(bench: Bench) -> bytes:
    return activation(bench, at=time.time() - 3600)


def weak_request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Attempt:
    """A request for a weak key at the enrolment listener, with a good token."""

    def attempt(bench: Bench) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        csr = builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM).decode()
        good = key_request(new_key(), new_signing_key())
        keys = KeyRequest(csr=csr, signing_key=good.signing_key, signature=good.signature)
        return post_enrol(bench, json.dumps({"token": "weak-token", "keys": keys.model_dump()}))

    return attempt


def post_enrol(bench: Bench, body: str) -> bytes:
    head = (
        f"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    return bench.ask(bench.context(None), head, port=bench.ports.enrol)


def bad_token(bench: Bench) -> bytes:
    keys = key_request(new_key(), new_signing_key())
    body = json.dumps({"token": "guessed", "keys": keys.model_dump()})
    return post_enrol(bench, body)


CASES = (
    Case("no certificate", shown(None), "tls-no-certificate"),
    Case("a certificate of another CA", shown("stranger"), "tls-other-ca"),
    Case("a self-signed certificate", shown("selfsigned"), "tls-self-signed"),
    Case("an expired certificate", shown("expired"), "tls-expired"),
    Case("a certificate that is not yet valid", shown("early"), "tls-not-yet-valid"),
    Case("a certificate for servers only", shown("serverusage"), "tls-wrong-usage"),
    Case("another site's certificate without its key", without_the_key, "tls-key-not-held"),
    Case("TLS 1.2", old_tls, "tls-version"),
    Case("plaintext HTTP", plaintext, "tls-plaintext"),
    Case("a certificate without a name", shown("nameless"), "no-site-certificate", "401"),
    Case("a certificate with two names", shown("twonames"), "no-site-certificate", "401"),
    Case("a certificate for both roles", shown("bothroles"), "not-a-site-certificate", "401"),
    Case("a P-256 key certified by the CA", shown("weak"), "weak-key", "401"),
    Case("a revoked site", shown("revoked"), "revoked", "401"),
    Case("a site that never enrolled", shown("unknown"), "not-enrolled", "401"),
    Case("a site that asked but was never approved", shown("waiting"), "not-enrolled", "401"),
    Case("an enrolled name with another key", shown("impostor"), "other-key", "401"),
    Case("another site's node key", under_key_of("south"), "key-mismatch", "401"),
    Case("captured headers, another site's line", replayed_by_another, "key-mismatch", "401"),
    Case("headers an hour old", replayed_late, "node-authentication", "401"),
    Case(
        "no node key",
        lambda b: b.ask(b.context("north"), request(PULL, None)),
        "no-node-key",
        "401",
    ),
    Case("the control path", shown("north", path="/v1/control/start-run"), "path", "401"),
    Case("the runtime path", shown("north", path="/v1/runtime/acquire-task"), "path", "401"),
    Case(
        "a request for a P-256 key",
        weak_request(ec.generate_private_key(ec.SECP256R1())),
        "STR-201",
        "enrolment",
    ),
    Case(
        "a request for an RSA-1024 key",
        weak_request(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505
        "STR-201",
        "enrolment",
    ),
    Case("a guessed token", bad_token, "STR-211", "enrolment"),
)


def refused(case: Case, answer: bytes) -> bool:
    """True when the answer is the refusal this case must get."""
    if case.where == "tls":
        return answer == b""
    status = answer[:12]
    if case.where == "enrolment":
        return status == b"HTTP/1.1 403"
    # Connections of those who are not in are cut within half a second, which may come first.
    return status == b"HTTP/1.1 401" or (answer == b"" and case.cause in CUT)


CUT = frozenset({"revoked", "not-enrolled", "other-key"})
"""Causes for which the edge also cuts the line."""


def logged(bench: Bench, case: Case, since: int, *, timeout_s: float = 5.0) -> bool:
    """True when the server's log names the cause after byte ``since``."""
    end = time.monotonic() + timeout_s
    needle = f'"reason": "{case.cause}"'
    while time.monotonic() < end:
        if needle in bench.log.read_text()[since:]:
            return True
        time.sleep(0.05)
    return False


def write_sites(bench_folder: Path, papers: Papers) -> Path:
    """Papers of everybody in the matrix, issued by hand where production refuses to."""
    folder = bench_folder / "sites"
    folder.mkdir()
    ca, ca_key = load_certificate(papers.ca), load_key(papers.ca_key)
    other_ca, other_key = make_ca("Example", 365, now())

    def keep(who: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        write_certificate(folder / f"{who}.pem", certificate)
        write_key(folder / f"{who}.key", key)

    for who in ("unknown", "waiting"):
        key = new_key()
        keep(who, issue_site(ca, ca_key, key.public_key(), who, now()), key)
    key = new_key()
    keep("impostor", issue_site(ca, ca_key, key.public_key(), "north", now()), key)
    key = new_key()
    keep("stranger", issue_site(other_ca, other_key, key.public_key(), "north", now()), key)
    by_hand = {
        "expired": {"begin": now() - 60 * DAY, "end": now() - 30 * DAY},
        "early": {"begin": now() + DAY},
        "serverusage": {"usages": [ExtendedKeyUsageOID.SERVER_AUTH]},
        "bothroles": {"usages": [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]},
        "nameless": {"names": []},
        "twonames": {"names": ["north", "south"]},
        "weak": {"curve": ec.SECP256R1()},
        "selfsigned": {"self_signed": True},
    }
    for who, changes in by_hand.items():
        keep(who, *certify(ca, ca_key, **changes))
    return folder


def certify(  # everything that production refuses to put into a certificate
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    *,
    begin: dt.datetime | None = None,
    end: dt.datetime | None = None,
    usages: list[x509.ObjectIdentifier] | None = None,
    names: list[str] | None = None,
    curve: ec.EllipticCurve | None = None,
    self_signed: bool = False,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(curve or ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    begin = begin or now() - DAY
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if self_signed else ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end or begin + 30 * DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(usages or [ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )
    if names is None:
        names = ["north"]
    if names:
        uris = [x509.UniformResourceIdentifier(f"urn:stillroom:site:{name}") for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
    return builder.sign(key if self_signed else ca_key, hashes.SHA384()), key


def enrol_directly(config: ServerConfig, folder: Path, who: str) -> None:
    """Enrol ``who`` as the offline path does, and keep its papers."""
    key = new_key()
    with Registry(config.registry) as registry:
        issued = enrol_by_file(
            registry, Authority.load(config), who, key_request(key, new_signing_key()), now()
        )
    (folder / f"{who}.pem").write_text(issued.pem)
    write_key(folder / f"{who}.key", key)


@contextlib.contextmanager
def live_server(folder: Path) -> Iterator[Bench]:
    """A consortium founded in ``folder``, with its server running."""
    edge, enrol, inner = free_ports(3)
    papers, ports = Papers(folder / "server"), Ports(edge, enrol, inner)
    digest = found(papers.folder, "Example consortium", ["127.0.0.1"], now(), ports=ports)
    assert read_consortium(papers.consortium.read_bytes()).ca_sha256 == digest
    text = papers.config.read_text().replace('edge_host = "0.0.0.0"', 'edge_host = "127.0.0.1"')
    papers.config.write_text(text)
    config = ServerConfig.load(papers.config)
    sites = write_sites(folder, papers)
    for who in ("north", "south", "revoked"):
        enrol_directly(config, sites, who)
    with Registry(papers.registry) as registry:
        registry.revoke("revoked", time.time())
        registry.invite("waiting", "waiting-token", time.time())
        keys = key_request(load_key(sites / "waiting.key"), new_signing_key())
        registry.request("waiting-token", checked(keys), time.time())
        registry.invite("weak-one", "weak-token", time.time())
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stillroom.server.cli", "serve", "-c", str(papers.config)],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "FLWR_HOME": str(folder / "flwr")},
        )
    try:
        for port in (inner, edge, enrol):
            wait_for(port, process, log)
        yield Bench(papers, sites, ports, log, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the server did not open port {port}:\n{log.read_text()}")


def run_matrix(bench: Bench) -> dict[str, bool]:
    """Every case once: name -> refused as it must be, and logged with its cause."""
    results = {}
    for case in CASES:
        since = len(bench.log.read_text())
        answer = case.attempt(bench)
        results[case.name] = refused(case, answer) and logged(bench, case, since)
        if not results[case.name]:
            print(case.name, answer[:200], bench.log.read_text()[since:][-600:])  # noqa: T201
    return results


def main() -> int:
    """Run the matrix and print ``handshake K/N refused``."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch, live_server(Path(scratch)) as bench:
        results = run_matrix(bench)
    for name, ok in results.items():
        print(f"{'refused' if ok else 'GOT IN '}  {name}")  # noqa: T201
    print(f"handshake {sum(results.values())}/{len(results)} refused")  # noqa: T201
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
