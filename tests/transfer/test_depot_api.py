"""What the edge answers about files of weights, asked by hand; and a whole server that has them."""

import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillroom.client.connection import Refused, failure, meaning
from stillroom.common.errors import StillroomError, TrustError
from stillroom.server import depot_api
from stillroom.server.depot import Depot

MIB = 1 << 20
STUDY = "ab" * 32
BASE = "/v1/stillroom/"


@pytest.fixture
def ask(edge: Any, context: Callable[..., ssl.SSLContext]) -> Callable[..., Any]:
    """One request; status, headers and body of the answer."""

    def call(method: str, path: str, body: bytes = b"", who: str = "north", **headers: str) -> Any:
        line = http.client.HTTPSConnection("127.0.0.1", edge.port, context=context(who), timeout=10)
        line.request(method, BASE + path, body=body or None, headers=headers)
        answer = line.getresponse()
        content = answer.read()
        line.close()
        kind = answer.headers.get("content-type", "")
        return answer, json.loads(content) if "json" in kind else content

    return call


@pytest.fixture
def hang(edge: Any, context: Callable[..., ssl.SSLContext]) -> Any:
    """Begins an upload and stops in the middle, with the connection open."""
    lines = []

    def begin(
        name: str, part: bytes, total: int, who: str = "north"
    ) -> http.client.HTTPSConnection:
        line = http.client.HTTPSConnection("127.0.0.1", edge.port, context=context(who), timeout=10)
        line.putrequest("PUT", f"{BASE}upload/{name}?offset=0&total={total}")
        line.putheader("Content-Length", str(total))
        line.endheaders()
        line.send(part)
        lines.append(line)
        return line

    yield begin
    for line in lines:
        line.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "blob/x", 404),
        ("GET", "blob/../in/north/" + "ab" * 32, 404),
        ("GET", "blob/%2e%2e/" + "ab" * 32, 404),
        ("GET", "blob/" + "AB" * 32, 404),
        ("GET", "blob/" + "ab" * 32 + "/", 404),
        ("GET", "blob/" + "ab" * 32, 404),
        ("POST", "blob/" + "ab" * 32, 404),
        ("PUT", "blob/" + "ab" * 32, 404),
        ("DELETE", "upload/" + "ab" * 32, 404),
        ("GET", "upload/x", 404),
        ("PUT", "upload/x?offset=0&total=1", 404),
        ("PUT", "upload/" + "ab" * 32, 404),
        ("PUT", "upload/" + "ab" * 32 + "?offset=-1&total=1", 404),
        ("PUT", "upload/" + "ab" * 32 + "?offset=0&total=" + "9" * 400, 404),
        ("PUT", "upload/" + "ab" * 32 + "?offset=1&total=2", 409),
        ("PUT", "upload/" + "ab" * 32 + "?offset=0&total=99999999999", 413),
        ("GET", "upload/" + "ab" * 32 + "?total=99999999999", 413),
        ("GET", "upload/" + "ab" * 32, 200),
        ("GET", "arrive", 404),
        ("POST", "elsewhere", 404),
        ("POST", "consent", 404),
    ],
)
def test_table_of_answers(ask: Any, method: str, path: str, status: int) -> None:
    """One row per way of asking."""
    assert ask(method, path)[0].status == status


@pytest.mark.parametrize(
    ("asked", "status", "start"),
    [
        ("", 200, 0),
        ("bytes=0-", 200, 0),
        ("bytes=5-", 206, 5),
        ("bytes=5-6", 200, 0),
        ("bytes=-5", 200, 0),
        ("lines=5-", 200, 0),
        ("bytes=999-", 206, 999),
        ("bytes=1000-", 416, None),
        ("bytes=9999-", 416, None),
    ],
)
def test_ranges(edge: Any, ask: Any, blob: Any, asked: str, status: int, start: int | None) -> None:
    """The rest of a file, or all of it; other forms of the header are not ours."""
    file = blob(1000)
    edge.depot.publish(STUDY, file.path, file.sha256)
    answer, content = ask("GET", f"blob/{file.sha256}", Range=asked)

    assert answer.status == status
    if start is not None:
        assert content == file.path.read_bytes()[start:]
        expected = f"bytes {start}-999/1000" if status == 206 else None
        assert answer.headers.get("content-range") == expected


def test_nobody_sees_what_another_site_sent(edge: Any, ask: Any, blob: Any) -> None:
    """Neither that it is there, nor its bytes; and sending the same is a file of one's own."""
    file = blob(1000)
    data, path = file.path.read_bytes(), f"upload/{file.sha256}"
    put = f"{path}?offset=0&total=1000"
    assert ask("PUT", put, data)[1] == {"have": 1000, "complete": True}

    assert ask("GET", path, who="south")[1] == {"have": 0, "complete": False}
    assert ask("GET", f"blob/{file.sha256}", who="south")[0].status == 404
    assert ask("PUT", put, b"x" * 1000, who="south")[0].status == 422
    assert ask("PUT", put, data, who="south")[1]["complete"] is True
    edge.depot.discard("south", file.sha256)
    assert ask("GET", path)[1]["complete"] is True


def test_the_newer_connection_goes_on(edge: Any, ask: Any, hang: Any, blob: Any) -> None:
    """A site that is back before its dead line is noticed is not kept waiting by it."""
    file = blob(2 * MIB)
    data = file.path.read_bytes()
    line = hang(file.sha256, data[: MIB + 5], file.nbytes)
    end = time.monotonic() + 10
    while _bytes_in(edge) < MIB + 5 and time.monotonic() < end:
        time.sleep(0.02)
    have = ask("GET", f"upload/{file.sha256}")[1]["have"]
    assert have == MIB + 5
    put = f"upload/{file.sha256}?offset={have}&total={file.nbytes}"
    assert ask("PUT", put, data[have:])[1] == {"have": file.nbytes, "complete": True}
    assert line.getresponse().status == 408


def _bytes_in(edge: Any) -> int:
    traffic = edge.record.sites.get("north")
    return traffic.bytes_in if traffic else 0


def test_a_silent_sender_is_let_go(
    ask: Any, hang: Any, blob: Any, monkeypatch: pytest.MonkeyPatch, edge: Any
) -> None:
    """After a while; what came stays."""
    monkeypatch.setattr(depot_api, "STALL_S", 0.3)
    file = blob(1000)
    line = hang(file.sha256, file.path.read_bytes()[:600], 1000)

    assert line.getresponse().status == 408
    assert edge.depot.have("north", file.sha256) == (600, False)


def test_four_at_a_time(edge: Any, ask: Any, hang: Any, blob: Any) -> None:
    """A fifth is told to wait; another site is not affected."""
    files = [blob(1000, seed) for seed in range(5)]
    for file in files[:4]:
        hang(file.sha256, file.path.read_bytes()[:600], 1000)
    end = time.monotonic() + 10
    folder = edge.folder / "depot" / "in" / "north"
    while len(list(folder.glob("*.part"))) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    put = f"upload/{files[4].sha256}?offset=0&total=1000"
    data = files[4].path.read_bytes()

    assert ask("PUT", put, data)[0].status == 429
    assert ask("PUT", put, data, who="south")[0].status == 200


def test_more_than_announced(ask: Any, blob: Any) -> None:
    """The body ends where the site said it would."""
    file = blob(1000)
    put = f"upload/{file.sha256}?offset=0&total=999"
    assert ask("PUT", put, file.path.read_bytes())[0].status == 400


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "", "STR-206"),
        (404, "STR-311", "STR-311"),
        (404, "", "STR-300"),
        (400, "STR-300", "STR-300"),
        (413, "STR-312", "STR-312"),
        (422, "STR-311", "STR-311"),
        *((status, "", None) for status in (408, 409, 429, 500, 502, 503, 504, 507)),
    ],
)
def test_what_refusals_mean(status: int, code: str, expected: str | None) -> None:
    """An end with a code, or another attempt."""
    told = meaning(Refused(status, code), "edge")
    assert (told.code if told else None) == expected


def test_what_broken_lines_mean() -> None:
    """The proxy's word and TLS's are errors to show; a line that drops is not."""
    cases: list[tuple[Exception, str | None]] = [
        (ConnectionResetError(), None),
        (TimeoutError("timed out"), None),
        (OSError("Tunnel connection failed: 503 Service Unavailable"), None),
        (OSError("Tunnel connection failed: 407 no"), "STR-506"),
        (OSError("Tunnel connection failed: 403 no"), "STR-506"),
        (ssl.SSLCertVerificationError("certificate verify failed"), "STR-201"),
        (ssl.SSLError("tlsv13 alert certificate required"), "STR-201"),
        (ssl.SSLError("EOF occurred in violation of protocol"), None),
    ]
    for error, expected in cases:
        told: StillroomError | None = failure(error, "edge")
        assert (told.code if told else None) == expected, error
    assert isinstance(failure(ssl.SSLError("alert"), "edge"), TrustError)


def test_a_whole_server_has_it(
    papers: Path, transfer: Any, blob: Any, tmp_path: Path, context: Any
) -> None:
    """`serve` without a registry takes and gives files, and ends at once with one half sent."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    config = tmp_path / "server.toml"
    config.write_text(
        f'state = "state"\nedge_host = "127.0.0.1"\nedge_port = {ports[0]}\n'
        f"inner_port = {ports[1]}\nmax_blob_mib = 2\n[tls]\nca = '{papers / 'ca.pem'}'\n"
        f"certificate = '{papers / 'server.pem'}'\nprivate_key = '{papers / 'server.key'}'\n"
    )
    command = [sys.executable, "-P", "-m", "stillroom.server.cli", "serve", "-c", str(config)]
    file, large = blob(MIB), blob(3 * MIB)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            there = transfer(ports[0])
            assert there.send(file.sha256, file.path, file.nbytes) == file.nbytes
            with pytest.raises(StillroomError) as caught:
                there.send(large.sha256, large.path, large.nbytes)
            assert caught.value.code == "STR-312"
            depot = Depot(tmp_path / "state" / "depot")
            received = depot.received("north", file.sha256)
            assert received is not None
            depot.publish(STUDY, received, file.sha256)
            there.fetch(file.sha256, file.nbytes, tmp_path / "got")
            line = http.client.HTTPSConnection("127.0.0.1", ports[0], context=context("north"))
            line.putrequest("PUT", f"{BASE}upload/{'ab' * 32}?offset=0&total=1000")
            line.putheader("Content-Length", "1000")
            line.endheaders()
            line.send(b"x" * 500)
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
            line.close()
            assert b"Traceback" not in server.stderr.read()
            assert depot.have("north", "ab" * 32)[1] is False
        finally:
            server.kill()
