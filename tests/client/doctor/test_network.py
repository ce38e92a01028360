"""What sights along the way to the server mean; no network in here."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509

from stillroom.client.doctor import network
from stillroom.client.doctor.line import LineSeen
from stillroom.common.errors import ResourceError
from stillroom.common.pki.issue import issue_server, make_ca, new_key

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def shown(*hosts: str) -> x509.Certificate:
    ca, key = make_ca("Gateway", 100, NOW)
    return issue_server(ca, key, new_key().public_key(), list(hosts), NOW)


def seen(**fields: Any) -> LineSeen:
    return LineSeen("fl.example.org", 443, **fields)


def exam(line: LineSeen, **more: Any) -> Any:
    return SimpleNamespace(line=line, now=NOW, pulse=None, **more)


def test_a_silent_port_is_a_firewall() -> None:
    """The rule to ask for names host, address and port."""
    found = network.route(seen(addresses=("192.0.2.7",), connect_errors={"192.0.2.7": "timed out"}))
    assert (found.outcome, found.code) == ("failed", "STR-504")
    assert "firewall" in found.saw
    assert "allow outbound TCP from this machine to fl.example.org (192.0.2.7) port 443" in found.do


def test_behind_a_proxy_the_rule_is_about_the_proxy() -> None:
    """The server is not dialled from here."""
    line = seen(
        proxy="proxy.hospital:3128", addresses=("10.0.0.9",), connect_errors={"a": "timed out"}
    )
    assert "proxy.hospital (10.0.0.9) port 3128" in network.route(line).do


@pytest.mark.parametrize(
    ("status", "login", "code", "words"),
    [
        (407, False, "STR-506", "wants a user name"),
        (407, True, "STR-506", "did not accept"),
        (401, True, "STR-506", "did not accept"),
        (403, False, "STR-506", "refuses CONNECT"),
        (502, False, "STR-504", "cannot reach"),
        (0, False, "STR-506", "no answer in HTTP"),
    ],
)
def test_what_a_proxy_says(status: int, login: bool, code: str, words: str) -> None:
    """Each answer to CONNECT has its own fix."""
    found = network.tunnel(seen(proxy="p:3128", proxy_login=login, tunnel=status))
    assert (found.outcome, found.code) == ("failed", code)
    assert words in found.saw
    assert "p:3128" not in found.told


def test_a_proxy_that_nobody_can_use() -> None:
    """Named before anything is dialled."""
    error = ResourceError("SOCKS.", fix="Use http.", code="STR-506")
    assert network.proxy_setting(seen(proxy_problem=error)).code == "STR-506"


def test_inspection_is_told_from_a_wrong_address() -> None:
    """A certificate minted for our name, or one of another machine."""
    inspected = network.inspection(seen(shown=shown("fl.example.org")))
    other = network.inspection(seen(shown=shown("printer.example.org")))
    assert "opened on the way" in inspected.saw
    assert "Gateway" in inspected.saw
    assert "Gateway" not in inspected.told
    assert "Another machine" in other.saw
    assert inspected.code == other.code == "STR-201"


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("fl.example.org", True),
        ("FL.example.org", True),
        ("192.0.2.7", True),
        ("example.org", False),
        ("a.fl.example.org", False),
        ("192.0.2.8", False),
    ],
)
def test_names_in_a_certificate(host: str, named: bool) -> None:
    """Names without regard to case, addresses exactly."""
    assert network.names_host(shown("fl.example.org", "192.0.2.7"), host) is named


@pytest.mark.parametrize(
    ("off_s", "outcome"),
    [
        (0, "ok"),
        (-20, "ok"),
        (120, "warning"),
        (-120, "warning"),
        (3600, "failed"),
        (-400, "failed"),
    ],
)
def test_clocks(off_s: int, outcome: str) -> None:
    """Within a minute is fine, beyond four nothing works."""
    line = seen(date=NOW, received_at=NOW + timedelta(seconds=off_s + 0.5))
    found = network.clock(exam(line))
    assert found.outcome == outcome
    if outcome != "ok":
        assert ("ahead" in found.saw) == (off_s > 0)


def test_a_server_that_tells_no_time() -> None:
    """Is nobody's fault here."""
    assert network.clock(exam(seen())).outcome == "skipped"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("revoked", "was revoked"),
        ("not-enrolled", "does not know"),
        ("other-key", "another key"),
        ("<b>odd</b>", "does not accept"),
    ],
)
def test_what_the_edge_says(body: str, words: str) -> None:
    """Its reasons in sentences; anything else is not repeated."""
    found = network.admission(seen(status=401, body=body))
    assert words in found.saw
    assert "odd" not in found.saw + found.told


def test_releases() -> None:
    """Too old, too new, right, and a server that does not say."""
    old = network.version(seen(status=426, body='{"version": "9.0", "oldest_client": "9.0"}'))
    assert old.code == "STR-216"
    assert network.version(seen(status=200, body='{"version": "0.1.0"}')).outcome == "ok"
    assert network.version(seen(status=404, body="{}")).outcome == "skipped"


@pytest.mark.parametrize(
    ("presence", "here", "outcome"),
    [
        (None, False, "skipped"),
        ({"courier_s": None}, False, "ok"),
        ({"courier_s": 4000}, False, "ok"),
        ({"courier_s": 3.0}, True, "ok"),
        ({"courier_s": 3.0}, False, "failed"),
        ({"courier_s": "3"}, False, "ok"),
    ],
)
def test_a_courier_elsewhere(presence: Any, here: bool, outcome: str) -> None:
    """Heard by the server, and not running here."""
    pulse = SimpleNamespace(written_at=NOW - timedelta(seconds=1 if here else 900))
    line = seen(presence=presence)
    found = network.elsewhere(SimpleNamespace(line=line, now=NOW, pulse=pulse))  # type: ignore[arg-type]
    assert found.outcome == outcome


def test_the_servers_certificate_has_days() -> None:
    """Valid, expired, early."""
    line = seen(shown=shown("fl.example.org"))
    for days, outcome in ((1, "ok"), (400, "failed"), (-3, "failed")):
        at = SimpleNamespace(line=line, now=NOW + timedelta(days=days))
        assert network.server_validity(at).outcome == outcome  # type: ignore[arg-type]


def test_nothing_is_read_from_disk(tmp_path: Path) -> None:
    """The sights are all that is looked at: a line that was never walked says so."""
    assert network.name(seen(name_error="it is no name")).code == "STR-504"
    assert network.server_name(seen()).outcome == "failed"
    assert not list(tmp_path.iterdir())
