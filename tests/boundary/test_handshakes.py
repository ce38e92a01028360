"""The handshake matrix against one live server: nobody gets in who is not enrolled, and why is told."""

import contextlib
import importlib.util
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest

from stillroom.client.descriptions import Descriptions
from stillroom.client.enrolment import Door, Keys, enrol_online, finish_offline, write_request
from stillroom.client.fleet import Edge
from stillroom.client.renewal import Renewal
from stillroom.common.consortium import grouped, read_consortium
from stillroom.common.enrolment import Kit
from stillroom.common.errors import StillroomError
from stillroom.common.pki.files import load_certificate, write_signing_key
from stillroom.common.signing import key_id, new_signing_key, public_key_hex
from stillroom.server.operator import Operator
from stillroom.server.store.registry import Registry


def _load() -> ModuleType:
    """Tests are no package; the matrix beside this file is imported by its path."""
    path = Path(__file__).with_name("handshakes.py")
    spec = importlib.util.spec_from_file_location("handshakes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["handshakes"] = module
    spec.loader.exec_module(module)
    return module


matrix = _load()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A founded consortium with its server running."""
    with matrix.live_server(tmp_path_factory.mktemp("consortium")) as made:
        yield made


def cli(bench: Any, *arguments: str) -> str:
    """One command of the operator's."""
    command = [sys.executable, "-P", "-m", "stillroom.server.cli", *arguments]
    done = subprocess.run(
        [*command, "--config", str(bench.papers.config)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("case", matrix.CASES, ids=lambda case: case.name)
def test_refused_and_named(bench: Any, case: Any) -> None:
    """Refused before HTTP where TLS can, else before Flower, and the log says why."""
    since = len(bench.log.read_text())

    assert matrix.refused(case, case.attempt(bench))
    assert matrix.logged(bench, case, since)


def test_the_matrix_is_not_void(bench: Any) -> None:
    """The enrolled site gets in by the same way of asking; Flower knows exactly the enrolled."""
    operator = Operator(bench.config)
    end = time.monotonic() + 10
    while set(operator.nodes()) != {"north", "south"} and time.monotonic() < end:
        time.sleep(0.1)
    assert set(operator.nodes()) == {"north", "south"}
    operator.close()
    assert matrix.activation(bench, at=time.time()).startswith(b"HTTP/1.1 200")


def test_failed_handshakes_are_counted(bench: Any) -> None:
    """The edge's record holds handshakes that never became a request, by cause."""
    matrix.shown("expired")(bench)
    end = time.monotonic() + 5
    while not bench.edge_record["handshakes_refused"].get("tls-expired") and time.monotonic() < end:
        time.sleep(0.1)
    assert bench.edge_record["handshakes_refused"]["tls-expired"] >= 1


def test_enrol_approve_renew_revoke(bench: Any, tmp_path: Path) -> None:
    """A hospital's whole life, live: token, comparison, papers, renewal, and out within a second."""
    token = "west-token"
    with Registry(bench.papers.registry) as registry:
        registry.invite("west", token, time.time())
    ca = matrix.read_consortium(bench.papers.consortium.read_bytes()).ca_sha256
    keys, told = Keys.make_or_load(tmp_path), list[tuple[str, str]]()
    door = Door(f"127.0.0.1:{bench.ports.enrol}", ca)
    stop, server = threading.Event(), f"127.0.0.1:{bench.ports.edge}"

    def tell(site: str, short: str) -> None:
        """The first call stops the wait: as if Ctrl-C were pressed."""
        told.append((site, short))
        stop.set()

    assert enrol_online(door, token, keys, tmp_path, server, tell, stop) is None
    assert not (tmp_path / "site.pem").exists()
    wrong = cli(bench, "site", "approve", "west", "--fingerprint", "0" * 16)
    assert "STR-212" in wrong
    assert "enrolled" in cli(bench, "site", "approve", "west", "--fingerprint", grouped(told[0][1]))

    # The same command again resumes: the token is spent, the keys are known.
    assert enrol_online(door, token, keys, tmp_path, server, tell, stop) == "west"
    door.close()
    first = load_certificate(tmp_path / "site.pem")
    assert "west" in cli(bench, "site", "list")

    def context() -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(tmp_path / "ca.pem")
        made.load_cert_chain(tmp_path / "site.pem", tmp_path / "site.key")
        return made

    renewal = Renewal(
        server=server,
        ca=tmp_path / "ca.pem",
        certificate=tmp_path / "site.pem",
        private_key=tmp_path / "site.key",
        context=context,
        renewed=lambda: told.append(("renewed", "")),
    )
    assert not renewal.ask()
    cli(bench, "site", "renew", "west")
    assert renewal.ask()
    assert told[-1] == ("renewed", "")
    second = load_certificate(tmp_path / "site.pem")
    assert second.serial_number != first.serial_number
    assert second.public_key() == first.public_key()

    raw = matrix.socket.create_connection(("127.0.0.1", bench.ports.edge), timeout=5)
    with raw, context().wrap_socket(raw, server_hostname="127.0.0.1") as line:
        line.sendall(b"GET /v1/fleet/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 401"
        while b"no-node-key" not in line.recv(4096):
            pass
        with Registry(bench.papers.registry) as registry:
            registry.revoke("west", time.time())
        started = time.monotonic()
        line.settimeout(5)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while line.recv(4096):
                pass
        assert time.monotonic() - started < 1.0
    again = Door(f"127.0.0.1:{bench.ports.enrol}", ca)
    with contextlib.closing(again), pytest.raises(StillroomError):
        again.status(keys.signing)


def test_no_token_for_an_unproven_server(bench: Any) -> None:
    """With another fingerprint than the server's CA has, the client ends before it sends anything."""
    since = len(bench.log.read_text())
    with pytest.raises(StillroomError) as caught:
        Door(f"127.0.0.1:{bench.ports.enrol}", "0" * 64)
    assert caught.value.code == "STR-212"
    assert "door" not in bench.log.read_text()[since:]


def test_enrol_by_file(bench: Any, tmp_path: Path) -> None:
    """Request out, kit back, no network; keys stay, and the same kit serves no other site."""
    site, other = tmp_path / "site", tmp_path / "other"
    keys = Keys.make_or_load(site)
    short = write_request(tmp_path / "request.json", keys)
    arguments = ["--request", str(tmp_path / "request.json"), "--out", str(tmp_path / "kit.json")]
    said = cli(bench, "site", "approve", "east", "--fingerprint", short, *arguments)
    assert "east is enrolled" in said
    kit = Kit.parse((tmp_path / "kit.json").read_bytes(), most=2**19)
    ca = matrix.read_consortium(bench.papers.consortium.read_bytes()).ca_sha256

    assert finish_offline(site, kit, ca, "fl.example.org:443") == "east"
    assert {path.name for path in site.glob("*.key")} == {"site.key", "signing.key"}
    for path in (*site.glob("*.key"), site / "runner.secret"):
        assert path.stat().st_mode & 0o777 == 0o600
    private = (site / "site.key").read_text()
    assert private not in (tmp_path / "request.json").read_text()
    with pytest.raises(StillroomError) as caught:
        finish_offline(site, kit, "0" * 64, "fl.example.org:443")
    assert caught.value.code == "STR-212"
    Keys.make_or_load(other)
    with pytest.raises(StillroomError) as caught:
        finish_offline(other, kit, ca, "fl.example.org:443")
    assert caught.value.code == "STR-203"
    assert load_certificate(site / "site.pem").not_valid_after_utc > datetime.now(UTC)


def test_the_door_forgets_nothing_and_takes_little(bench: Any) -> None:
    """More than 16 KiB, no JSON, another method, another path: refused, and the door stays open."""
    body = b"x" * 20_000
    head = f"POST /v1/enrol/status HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    tls = bench.context(None)
    answer = bench.ask(tls, head.encode() + body, port=bench.ports.enrol)
    assert answer.startswith((b"HTTP/1.1 413", b"")), answer[:40]
    for line, status in (("GET /v1/enrol", b"405"), ("POST /v1/fleet/pull-messages", b"404")):
        request = f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        assert bench.ask(tls, request, port=bench.ports.enrol)[9:12] == status
    request = "GET /v1/consortium HTTP/1.1\r\nHost: x\r\n\r\n"
    assert bench.ask(tls, request, port=bench.ports.enrol)[9:12] == b"200"


def test_no_race_after_approval(bench: Any, tmp_path: Path) -> None:
    """Who dials in the very moment of the approval is in, although Flower knows the key later."""
    for who in ("first", "second", "third"):
        matrix.enrol_directly(bench.config, tmp_path, who)
        settings = SimpleNamespace(
            server=f"127.0.0.1:{bench.ports.edge}",
            ca=bench.papers.ca,
            certificate=tmp_path / f"{who}.pem",
            private_key=tmp_path / f"{who}.key",
        )
        edge = Edge(settings, threading.Event())
        edge.activate()
        assert edge.node.node_id
        edge.close()


def test_operators_come_and_go(bench: Any, tmp_path: Path) -> None:
    """The founder hands over to another operator while a site was away; the site follows, once."""
    pinned, second = tmp_path / "consortium.json", new_signing_key()
    pinned.write_bytes(bench.papers.consortium.read_bytes())
    write_signing_key(tmp_path / "second.key", second)
    public = public_key_hex(second.public_key())
    assert "operator second" in cli(bench, "operator", "add", "second", "--public-key", public)
    by_second = ["--key", str(tmp_path / "second.key")]
    assert "removed" in cli(bench, "operator", "remove", "first operator", *by_second)

    asked = Descriptions(
        f"127.0.0.1:{bench.ports.edge}", pinned, context=lambda: bench.context("north")
    )
    assert asked.ask() == 2
    assert set(read_consortium(pinned.read_bytes()).operators) == {key_id(second)}
    assert asked.ask() == 0
    with pytest.raises((httpx.HTTPError, StillroomError)):
        Descriptions(asked.server, pinned, context=lambda: bench.context("revoked")).ask()
