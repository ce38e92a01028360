"""Who may call what behind the edge: the decision itself, without a network."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from packaging.version import Version

from stillroom.common.errors import ConfigError
from stillroom.common.pki.issue import new_key
from stillroom.common.versions import About
from stillroom.server.edge import FleetGate, Peer, refusal, tls_context
from stillroom.server.edge_record import EdgeRecord


def pem() -> bytes:
    return (
        new_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


MINE, OTHER = pem(), pem()
PEER = Peer("north", "ab" * 32, MINE, "TLSv1.3")
NOBODY = Peer(None, "ab" * 32, MINE, "TLSv1.3")
HEADER, FOREIGN = base64.b64encode(MINE), base64.b64encode(OTHER)
PATH = "/v1/fleet/pull-messages"


@pytest.mark.parametrize(
    ("path", "header", "peer", "why"),
    [
        (PATH, HEADER, PEER, None),
        (PATH, HEADER, None, "no-site-certificate"),
        (PATH, HEADER, NOBODY, "no-site-certificate"),
        (PATH, None, PEER, "no-node-key"),
        (PATH, b"!!!", PEER, "no-node-key"),
        (PATH, b"", PEER, "key-mismatch"),
        (PATH, FOREIGN, PEER, "key-mismatch"),
        (PATH, base64.b64encode(MINE + b"\n"), PEER, "key-mismatch"),
        ("/v1/control/list-runs", HEADER, PEER, "path"),
        ("/v1/runtime/acquire-task", HEADER, PEER, "path"),
        ("/docs", HEADER, PEER, "path"),
        ("/openapi.json", HEADER, PEER, "path"),
        ("/health", HEADER, PEER, "path"),
        ("/", HEADER, PEER, "path"),
        ("", HEADER, PEER, "path"),
        ("/v1/fleet", HEADER, PEER, "path"),
        ("/V1/FLEET/pull-messages", HEADER, PEER, "path"),
        ("//v1/fleet/pull-messages", HEADER, PEER, "path"),
        ("/x/v1/fleet/pull-messages", HEADER, PEER, "path"),
    ],
)
def test_refusal_table(path: str, header: bytes | None, peer: Peer | None, why: str | None) -> None:
    """One row per way in; only a site's own key on a Fleet path passes."""
    assert refusal(path, header, peer) == why


def call(
    gate: FleetGate, *, peer: Peer | None, path: str = PATH, **extra: Any
) -> list[dict[str, Any]]:
    """One request; what was sent back."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "path": path,
        "headers": [(b"flwr-public-key", HEADER)],
        "state": {"peer": peer},
        **extra,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"12345", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(gate(scope, receive, send))  # type: ignore[arg-type]
    return sent


class Behind:
    """The application behind the gate; counts who gets there."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer three bytes."""
        self.calls += 1
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc"})


def test_gate_counts_and_refuses() -> None:
    """Bytes by site, refusals by reason; a refused request never reaches the application."""
    behind, record = Behind(), EdgeRecord()
    gate = FleetGate(behind, record)

    assert call(gate, peer=PEER)[0]["status"] == 200
    assert call(gate, peer=PEER)[0]["status"] == 200
    assert call(gate, peer=PEER, path="/docs")[0]["status"] == 401
    assert call(gate, peer=None)[0]["status"] == 401

    seen = record.as_json()
    assert behind.calls == 2
    assert seen["refused"] == {"no-site-certificate": 1, "path": 1}
    north = seen["sites"]["north"]
    assert (north["requests"], north["bytes_in"], north["bytes_out"]) == (2, 10, 6)
    assert (north["tls_version"], north["certificate_sha256"]) == ("TLSv1.3", "ab" * 32)


def test_gate_speaks_http_only() -> None:
    """A websocket or a lifespan message goes nowhere."""
    behind = Behind()

    assert call(FleetGate(behind, EdgeRecord()), peer=PEER, type="websocket") == []
    assert behind.calls == 0


def test_a_new_certificate_starts_a_new_record() -> None:
    """What was counted under the old one is not attributed to the new one."""
    record = EdgeRecord()
    record.seen(PEER, 1.0)
    record.seen(PEER, 2.0)
    fresh = record.seen(Peer("north", "cd" * 32, MINE, "TLSv1.3"), 3.0)

    assert (fresh.requests, fresh.first_seen) == (1, 3.0)
    assert record.sites["north"] is fresh


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_papers_that_are_no_papers(papers: Any, tmp_path: Path, broken: int) -> None:
    """A file that is no certificate or key is ours to explain, before a port is opened."""
    files = [papers.folder / "ca.pem", papers.certificate("server"), papers.key("server")]
    assert tls_context(*files)
    files[broken] = tmp_path / "broken.pem"
    files[broken].write_text("not a certificate")

    with pytest.raises(ConfigError) as caught:
        tls_context(*files)
    assert caught.value.code == "STR-101"


ABOUT = About(Version("1.4.0"), Version("1.2.0"))


@pytest.mark.parametrize(
    ("stated", "why", "noted"),
    [
        (None, "client-too-old", None),
        (b"1.1.9", "client-too-old", "1.1.9"),
        (b"1.2.0", None, "1.2.0"),
        (b"1.9.0", None, "1.9.0"),
        (b"2.0.0", "client-too-new", "2.0.0"),
        (b"<b>1</b>", "client-unreadable", None),
        (b"\xff\xfe", "client-unreadable", None),
        (b"1" * 300, "client-unreadable", None),
    ],
)
def test_releases_that_do_not_fit_are_told_so(
    stated: bytes | None, why: str | None, noted: str | None
) -> None:
    """The operator sees who runs what; the site hears which release to install, not silence."""
    behind, record = Behind(), EdgeRecord()
    gate = FleetGate(behind, record, about=ABOUT)
    headers = [(b"flwr-public-key", HEADER)]
    if stated is not None:
        headers.append((b"stillroom-version", stated))

    sent = call(gate, peer=PEER, headers=headers)

    assert record.as_json()["sites"]["north"]["version"] == noted
    if why is None:
        assert (sent[0]["status"], behind.calls, record.refused) == (200, 1, {})
        return
    assert (sent[0]["status"], behind.calls, record.refused) == (426, 0, {why: 1})
    said = json.loads(sent[1]["body"])
    assert said == {"code": "STR-216", "version": "1.4.0", "oldest_client": "1.2.0"}


def test_a_stranger_learns_nothing_of_our_release() -> None:
    """Who is asked for first; the release is told to sites only."""
    gate = FleetGate(Behind(), EdgeRecord(), about=ABOUT)

    assert call(gate, peer=None, headers=[])[0]["status"] == 401
    assert call(gate, peer=PEER, headers=[])[0]["status"] == 401
