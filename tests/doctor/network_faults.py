"""Faults of the way to the server."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from faults import fault
from place import HOST, Place, dropped, environment, names, set_toml

from stillroom.client.doctor.examination import Examination

PROXY, GATEWAY, NOBODY, OTHER_EDGE = 13128, 14443, 15443, 16443
STAND_INS = Path(__file__).with_name("stand_ins.py")
OLD = """
from packaging.version import Version
import stillroom.common.versions as versions
versions.OLDEST_CLIENT = Version("99.0.0")
"""
PROXY_FILE = """\
Port {port}
Listen 127.0.0.1
Timeout 10
MaxClients 20
Allow 127.0.0.1
ConnectPort {allowed}
{login}
"""


def proxy(place: Place, *, login: str = "", allowed: int | None = None):  # type: ignore[no-untyped-def]
    """A real tinyproxy."""
    path = place.out / "tinyproxy.conf"
    text = PROXY_FILE.format(port=PROXY, login=login, allowed=allowed or place.port)
    path.write_text(text, "ascii")
    return place.running(["tinyproxy", "-d", "-c", str(path)], "tinyproxy", PROXY)


def gateway(place: Place, host: str, organisation: str, *more: str):  # type: ignore[no-untyped-def]
    """A TLS listener with a CA of its own."""
    command = [sys.executable, "-P", str(STAND_INS), str(GATEWAY), host, organisation, *more]
    return place.running(command, "gateway", GATEWAY)


@fault("blocked port", "nftables drops it", "route", "STR-504", "firewall", "allow outbound TCP")
def blocked(place: Place, config: Path) -> Iterator[None]:
    """Silence."""
    with place.serving(), dropped(place.port):
        yield


@fault("server down", "nobody listens", "route", "STR-504", "refused", "Ask the operator")
def down(place: Place, config: Path) -> Iterator[None]:
    """A refusal."""
    set_toml(config, server=f"{HOST}:{NOBODY}")
    with place.serving():
        yield


@fault("no such name", "another `/etc/hosts`, no DNS", "name", "STR-504", "no address")
def no_name(place: Place, config: Path) -> Iterator[None]:
    """A name that stands for nothing."""
    with place.serving(), names({"localhost": "127.0.0.1"}):
        yield


@fault(
    "wrong DNS", "the name leads to another machine with TLS", "TLS inspection", "STR-201",
    "Another machine", "DNS",
)  # fmt: skip
def wrong_address(place: Place, config: Path) -> Iterator[None]:
    """The name of another machine, at which another service answers."""
    set_toml(config, server=f"{HOST}:{GATEWAY}")
    with gateway(place, "printer.hospital.test", "Printers"):
        yield


@fault("wrong port", "something without TLS answers there", "TLS inspection", "STR-504", "no TLS")
def wrong_port(place: Place, config: Path) -> Iterator[None]:
    """A listener that speaks plain HTTP."""
    set_toml(config, server=f"{HOST}:{PROXY}")
    with proxy(place):
        yield


@fault("proxy wants a login", "tinyproxy, 407", "proxy tunnel", "STR-506", "407", "HTTPS_PROXY")
def proxy_407(place: Place, config: Path) -> Iterator[None]:
    """No user name is given."""
    with (
        place.serving(),
        proxy(place, login="BasicAuth it secret"),
        environment(HTTPS_PROXY=f"http://127.0.0.1:{PROXY}"),
    ):
        yield


@fault("proxy login wrong", "tinyproxy", "proxy tunnel", "STR-506", "did not accept")
def proxy_wrong(place: Place, config: Path) -> Iterator[None]:
    """Another password."""
    with (
        place.serving(),
        proxy(place, login="BasicAuth it secret"),
        environment(HTTPS_PROXY=f"http://it:other@127.0.0.1:{PROXY}"),
    ):
        yield


@fault("proxy forbids the port", "tinyproxy, ConnectPort", "proxy tunnel", "STR-506", "CONNECT")
def proxy_port(place: Place, config: Path) -> Iterator[None]:
    """Only another port may be tunnelled to."""
    with (
        place.serving(),
        proxy(place, allowed=443),
        environment(HTTPS_PROXY=f"http://127.0.0.1:{PROXY}"),
    ):
        yield


@fault("server down behind a proxy", "tinyproxy, 5xx", "proxy tunnel", "STR-504", "cannot reach")
def proxy_nowhere(place: Place, config: Path) -> Iterator[None]:
    """The proxy finds nobody."""
    set_toml(config, server=f"{HOST}:{NOBODY}")
    proxied = environment(HTTPS_PROXY=f"http://127.0.0.1:{PROXY}")
    with proxy(place, allowed=NOBODY), proxied:
        yield


@fault("proxy down", "nobody listens", "route", "STR-504", "refused")
def proxy_down(place: Place, config: Path) -> Iterator[None]:
    """The proxy itself is away."""
    with place.serving(), environment(HTTPS_PROXY=f"http://127.0.0.1:{PROXY}"):
        yield


@fault("proxy of another kind", "SOCKS in HTTPS_PROXY", "proxy", "STR-506", "kind")
def proxy_kind(place: Place, config: Path) -> Iterator[None]:
    """One that nobody here can use."""
    with place.serving(), environment(HTTPS_PROXY=f"socks5://127.0.0.1:{PROXY}"):
        yield


@fault(
    "intercepting proxy", "a proxy that opens TLS with a CA of its own", "TLS inspection", "STR-201",
    "Hospital Security", "exception",
)  # fmt: skip
def intercepted(place: Place, config: Path) -> Iterator[None]:
    """A certificate for the right name, from somebody else."""
    with (
        gateway(place, HOST, "Hospital Security", "--connect"),
        environment(HTTPS_PROXY=f"http://127.0.0.1:{GATEWAY}"),
    ):
        yield


@fault("name not in the certificate", "another name for the server", "server name", "STR-201")
def other_name(place: Place, config: Path) -> Iterator[None]:
    """A name that the operator has not put into it."""
    set_toml(config, server=f"other.stillroom.test:{place.port}")
    with place.serving(), names({HOST: "127.0.0.1", "other.stillroom.test": "127.0.0.1"}):
        yield


def _at(config: Path, off: timedelta) -> Examination:
    return Examination(config, clock=lambda: datetime.now(UTC) + off, patience_s=1.5)


@fault("clock 1 h ahead", "the doctor's clock; and `faketime`, below", "clock", "STR-201", "ahead")
def ahead(place: Place, config: Path) -> Iterator[Examination]:
    """An hour."""
    with place.serving():
        yield _at(config, timedelta(hours=1))


@fault("clock a year behind", "the doctor's clock", "clock", "STR-201", "behind", also=("study",))
def behind(place: Place, config: Path) -> Iterator[Examination]:
    """So far that no certificate holds by it."""
    with place.serving():
        yield _at(config, timedelta(days=-365))


@fault("clock 2 min behind", "the doctor's clock", "clock", "", "behind", outcome="warning")
def a_little(place: Place, config: Path) -> Iterator[Examination]:
    """So little that all still works."""
    with place.serving():
        yield _at(config, timedelta(minutes=-2))


@fault("old client", "a server that takes 99.0 and later", "version", "STR-216", "99.0.0")
def old_client(place: Place, config: Path) -> Iterator[None]:
    """The real server, which wants more."""
    set_toml(config, server=f"{HOST}:{OTHER_EDGE}")
    with place.serving_too(OLD, OTHER_EDGE):
        yield
