"""Isolation, shown with real network namespaces: one way out, and none at all for the runner."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stillroom.server.config import ServerConfig
from stillroom.server.foundation import Papers, Ports, found


def _load(name: str) -> ModuleType:
    """Tests are no package; a module beside this file is imported by its path."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


namespaces, matrix = _load("namespaces"), _load("handshakes")
SERVER, PROXY = namespaces.ADDRESSES["srv"], namespaces.ADDRESSES["proxy"]
pytestmark = pytest.mark.skipif(
    namespaces.missing() is not None, reason=str(namespaces.missing() or "")
)

# The courier's own connection: activate, look for work, say goodbye. Prints how it ended.
CALL = """
import sys, threading
from pathlib import Path
from stillroom.client.courier import CourierSettings
from stillroom.client.fleet import Edge
from stillroom.common.errors import StillroomError
folder = Path(sys.argv[2])
settings = CourierSettings(
    server=sys.argv[1], ca=folder / "ca.pem", certificate=folder / "north.pem",
    private_key=folder / "north.key", runtime_port=9, secret=b"", agreement=None, state=folder,
    exchange=folder, study=folder,
)
stop = threading.Event()
timer = threading.Timer(float(sys.argv[3]), stop.set)
timer.daemon = True
timer.start()
try:
    edge = Edge(settings, stop)
    edge.activate()
    edge.reconnect()  # as after a renewal: the next call is made over a new connection
    print("polled", edge.pull())
    edge.close()
except StillroomError as error:
    print(error.code, error.fix)
except Exception as error:
    print(type(error).__name__)
"""

# What a runner may do where there is no network, not even lo: talk to its courier, nothing else.
ALONE = """
import errno, socket
outside = []
for family, address in (
    (socket.AF_INET, ("10.77.0.1", 443)), (socket.AF_INET, ("10.77.0.2", 22)),
    (socket.AF_INET, ("192.0.2.1", 53)), (socket.AF_INET6, ("2001:db8::1", 443)),
    (socket.AF_INET, ("127.0.0.1", 9094)),
):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as probe:
            probe.settimeout(1)
            outside.append(errno.errorcode.get(probe.connect_ex(address)))
import sys
from pathlib import Path
from stillroom.client.runtime_socket import bound_socket
with bound_socket(Path(sys.argv[1])) as listener, socket.socket(socket.AF_UNIX) as inside:
    listener.listen()
    inside.connect(sys.argv[1])
print(sorted(set(outside) - {"EADDRNOTAVAIL", "ENETUNREACH"}), [name for _, name in socket.if_nameindex()])
"""


@dataclass(frozen=True)
class Lab:
    """A server in one namespace and an enrolled hospital's papers for another."""

    hosts: Any
    site: Path

    def call(self, *, seconds: float = 20.0, **env: str) -> str:
        """The courier's call from the hospital; what it printed."""
        arguments = ["-P", "-c", CALL, f"{SERVER}:443", str(self.site), str(seconds)]
        clean = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        done = subprocess.run(
            self.hosts.command("site", [sys.executable, *arguments]),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**clean, **env},
        )
        return done.stdout.strip() or done.stderr


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Namespaces, a founded consortium, its server on 443, one enrolled hospital."""
    folder, hosts = tmp_path_factory.mktemp("lab"), namespaces.Hosts()
    process: subprocess.Popen[bytes] | None = None
    try:
        try:
            hosts.up()
        except subprocess.CalledProcessError:
            pytest.skip("this kernel or container allows no network namespaces, veth or bridge")
        papers = Papers(folder / "server")
        found(papers.folder, "Example", [SERVER], matrix.now(), ports=Ports(443, 8443, 8000))
        site = folder / "site"
        site.mkdir()
        matrix.enrol_directly(ServerConfig.load(papers.config), site, "north")
        shutil.copyfile(papers.ca, site / "ca.pem")
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                hosts.command(
                    "srv",
                    [sys.executable, "-P", "-m", "stillroom.server.cli", "serve"]  # noqa: RUF005
                    + ["-c", str(papers.config)],
                ),
                stdout=log,
                stderr=log,
                env={**os.environ, "FLWR_HOME": str(folder / "flwr")},
            )
        _wait_until_in_step(folder / "server.log", process)
        yield Lab(hosts, site)
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        hosts.down()


def _wait_until_in_step(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Until Flower knows the hospital's key; its log says when."""
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        if "Created node_id" in log.read_text():
            time.sleep(0.5)
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_courier_needs_one_destination(lab: Lab) -> None:
    """It connects and polls through a firewall that lets out the server's 443 and nothing else."""
    lab.hosts.allow_only(SERVER, 443)

    assert lab.call() == "polled None"
    counted = lab.hosts.counters()
    assert counted["allowed"] > 0
    # Not one packet to anywhere else: no name service, no telemetry, no second port.
    assert (counted["denied out"], counted["denied in"]) == (0, 0)


def test_the_counter_counts(lab: Lab) -> None:
    """A packet elsewhere is refused and counted; otherwise the test above is void."""
    lab.hosts.allow_only(SERVER, 443)
    probe = "import socket; print(socket.socket().connect_ex(('10.77.0.1', 8443)))"
    done = subprocess.run(
        lab.hosts.command("site", [sys.executable, "-c", probe]), capture_output=True, check=True
    )
    assert done.stdout.strip() != b"0"
    assert lab.hosts.counters()["denied out"] > 0


def test_the_server_cannot_call_the_hospital(lab: Lab) -> None:
    """Nothing gets in from the other side, not even from the one address that may be called."""
    lab.hosts.allow_only(SERVER, 443)
    probe = (
        "import socket; s = socket.socket(); s.settimeout(0.5); "
        "print(s.connect_ex(('10.77.0.2', 22)))"
    )
    done = subprocess.run(
        lab.hosts.command("srv", [sys.executable, "-c", probe]), capture_output=True, check=True
    )
    assert done.stdout.strip() != b"0"
    assert lab.hosts.counters()["denied in"] > 0


def test_runner_has_no_network(lab: Lab, tmp_path: Path) -> None:
    """Every address is unreachable, its own machine's too, and the courier's socket still works."""
    where = str(tmp_path / "runtime.sock")
    done = subprocess.run(
        lab.hosts.command("runner", [sys.executable, "-P", "-c", ALONE, where]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[] ['lo']"


@pytest.fixture
def proxy(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """Tinyproxy with a user and a password, CONNECT to 443 only; the hospital's only way out."""
    binary = shutil.which("tinyproxy")
    if binary is None:
        pytest.skip("tinyproxy is not installed")
    settings = tmp_path / "tinyproxy.conf"
    settings.write_text(
        f"Port 8888\nListen {PROXY}\nTimeout 60\nAllow 10.77.0.0/24\nConnectPort 443\n"
        "BasicAuth hospital open-sesame\nLogLevel Error\n"
    )
    process = subprocess.Popen(
        lab.hosts.command("proxy", [binary, "-d", "-c", str(settings)]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        lab.hosts.allow_only(PROXY, 8888)
        time.sleep(0.5)
        assert process.poll() is None
        yield f"{PROXY}:8888"
    finally:
        process.terminate()
        process.wait(10)


def test_through_an_authenticating_proxy(lab: Lab, proxy: str) -> None:
    """Mutual TLS end to end through CONNECT: the proxy carries bytes it cannot read."""
    assert lab.call(HTTPS_PROXY=f"http://hospital:open-sesame@{proxy}") == "polled None"
    assert lab.hosts.counters()["denied out"] == 0


def test_wrong_proxy_password(lab: Lab, proxy: str) -> None:
    """STR-506 and what to correct, at once; the password is not repeated."""
    said = lab.call(HTTPS_PROXY=f"http://hospital:wrong-word@{proxy}")

    assert said.startswith("STR-506")
    assert "HTTPS_PROXY" in said
    assert "wrong-word" not in said
