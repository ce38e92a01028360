"""The edge for real: one server process, and everybody who should not get in."""

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from stillroom.common.errors import ResourceError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.pki.files import load_key
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights
from stillroom.common.versions import HEADER, own_version, present
from stillroom.server.config import ServerConfig
from stillroom.server.health import require_serving
from stillroom.server.operator import Operator
from stillroom.server.superexec import superexec_secret

ACTIVATE = "/v1/fleet/activate-node"


def context(papers: Any, who: str | None) -> ssl.SSLContext:
    """What a site shows; None shows nothing."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(papers.folder / "ca.pem")
    if who is not None:
        made.load_cert_chain(papers.certificate(who), papers.key(who))
    return made


def http_bytes(port: int, tls: ssl.SSLContext) -> bytes:
    """What comes back for one HTTP request; empty when the connection is refused before HTTP."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        try:
            with tls.wrap_socket(raw, server_hostname="127.0.0.1") as line:
                line.sendall(b"GET /v1/fleet/x HTTP/1.1\r\nHost: x\r\n\r\n")
                return line.recv(4096)
        except (ssl.SSLError, ConnectionError):
            return b""


def get(server: Any, papers: Any, path: str, *, key_of: str | None = "north") -> httpx.Response:
    """One request under north's certificate, with the node key of ``key_of`` in the header."""
    headers = {}
    if key_of is not None:
        headers["flwr-public-key"] = base64.b64encode(papers.public_key(key_of)).decode()
    url = f"https://127.0.0.1:{server.ports.edge}{path}"
    with httpx.Client(verify=context(papers, "north"), trust_env=False) as client:
        return client.post(url, headers=headers)


@contextlib.contextmanager
def fleet(server: Any, papers: Any, certificate: str, key: str) -> Iterator[FleetHttpClient]:
    """Flower's own client, under any certificate and any node key."""
    private = load_key(papers.key(key))
    client = FleetHttpClient(
        f"https://127.0.0.1:{server.ports.edge}",
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private, private.public_key()),
        ],
        verify=context(papers, certificate),
        timeout=20,
    )
    with contextlib.closing(client):
        yield client


def activate(papers: Any, who: str) -> ActivateNodeRequest:
    return ActivateNodeRequest(
        public_key=papers.public_key(who), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
    )


@pytest.fixture(scope="module")
def operator(server: Any, papers: Any) -> Iterator[Operator]:
    """North and south are registered; newcomer is not."""
    made = Operator(ServerConfig.load(server.config))
    for site in ("north", "south"):
        made.register(site, papers.public_key(site))
    yield made
    made.close()


@pytest.mark.parametrize("who", [None, "stranger", "expired", "server"])
def test_no_http_without_a_valid_site_certificate(
    server: Any, papers: Any, who: str | None
) -> None:
    """None, another CA's, an expired one, another role's: the handshake is where it ends."""
    assert http_bytes(server.ports.edge, context(papers, who)) == b""


def test_a_valid_certificate_reaches_http(server: Any, papers: Any) -> None:
    """The same request under a site's certificate is answered; otherwise the test above is void."""
    assert http_bytes(server.ports.edge, context(papers, "north")).startswith(b"HTTP/1.1 401")


def test_health(server: Any) -> None:
    """A service manager hears that the server answers, and STR-520 once it does not."""
    config = ServerConfig.load(server.config)
    require_serving(config)

    with pytest.raises(ResourceError) as caught:
        require_serving(config.model_copy(update={"inner_port": 1}))
    assert caught.value.code == "STR-520"


def ask_about(server: Any, papers: Any, version: str | None) -> httpx.Response:
    """The question about the release, of a courier that states ``version``."""
    headers = {} if version is None else {HEADER: version}
    url = f"https://127.0.0.1:{server.ports.edge}/v1/stillroom/"
    with httpx.Client(verify=context(papers, "north"), trust_env=False, headers=headers) as client:
        assert client.post(f"{url}arrive").status_code == (426 if version == "99.0" else 200)
        return client.get(f"{url}about")


@pytest.mark.parametrize("version", [None, str(own_version()), "99.0"])
def test_any_site_may_ask_which_release_this_is(
    server: Any, papers: Any, version: str | None
) -> None:
    """Also one whose release is refused: what else could it show to its people?"""
    answer = ask_about(server, papers, version)

    assert answer.status_code == 200
    assert answer.json() == present().as_json()


def test_tls_1_2_is_refused(server: Any, papers: Any) -> None:
    """The version is not negotiated down."""
    old = context(papers, "north")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    raw = socket.create_connection(("127.0.0.1", server.ports.edge), timeout=10)

    with raw, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(raw, server_hostname="127.0.0.1")


def test_plain_http_is_refused(server: Any) -> None:
    """Nothing is answered in clear text."""
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{server.ports.edge}/v1/fleet/x", trust_env=False)


def test_tls_1_3_and_nothing_to_resume(server: Any, papers: Any) -> None:
    """Every connection shows its certificate again."""
    tls = context(papers, "north")
    raw = socket.create_connection(("127.0.0.1", server.ports.edge), timeout=10)

    with raw, tls.wrap_socket(raw, server_hostname="127.0.0.1") as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 401"
        assert line.version() == "TLSv1.3"
        assert line.session is None or not line.session.has_ticket


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/",
        "//v1/fleet/activate-node",
        "/v1/fleet",
    ],
)
def test_only_the_fleet_api(server: Any, papers: Any, path: str) -> None:
    """A site cannot start runs, take server tasks, or read what the server could do."""
    answer = get(server, papers, path)

    assert (answer.status_code, answer.text) == (401, "path")


@pytest.mark.parametrize(
    "path", ["/v1/fleet/../control/list-runs", "/v1/fleet/%2e%2e/control/list-runs"]
)
def test_no_way_around_by_dots(server: Any, papers: Any, path: str) -> None:
    """A path that only looks like the Fleet API's reaches nothing behind it."""
    raw = socket.create_connection(("127.0.0.1", server.ports.edge), timeout=10)
    with context(papers, "north").wrap_socket(raw, server_hostname="127.0.0.1") as tls:
        key = base64.b64encode(papers.public_key("north")).decode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nflwr-public-key: {key}\r\ncontent-length: 0\r\n\r\n"
        tls.sendall(head.encode())
        status = int(tls.recv(4096).split()[1])

    assert status in {401, 404}


def test_key_of_another_site(server: Any, papers: Any, operator: Operator) -> None:
    """North's certificate with south's registered key: neither of them may speak."""
    assert get(server, papers, ACTIVATE, key_of="south").text == "key-mismatch"
    assert get(server, papers, ACTIVATE, key_of=None).text == "no-node-key"

    with (
        fleet(server, papers, "north", "south") as client,
        pytest.raises(httpx.HTTPStatusError) as caught,
    ):
        client.ActivateNode(activate(papers, "south"))
    assert caught.value.response.status_code == 401


def test_registered_site_gets_in(server: Any, papers: Any, operator: Operator) -> None:
    """Certificate and key together: the operator sees the site by its registered name."""
    with fleet(server, papers, "north", "north") as client:
        assert client.ActivateNode(activate(papers, "north")).node_id
    assert operator.nodes()["north"] == "online"


def test_unregistered_site_stays_out(server: Any, papers: Any, operator: Operator) -> None:
    """A certificate of our CA is not enough, and a site cannot register itself."""
    with fleet(server, papers, "newcomer", "newcomer") as client:
        with pytest.raises(httpx.HTTPStatusError):
            client.ActivateNode(activate(papers, "newcomer"))
        with pytest.raises(httpx.HTTPStatusError):
            client.RegisterNode(RegisterNodeFleetRequest(public_key=papers.public_key("newcomer")))
    assert "newcomer" not in operator.nodes()


def test_inner_listener_hands_no_task_to_strangers(server: Any) -> None:
    """Another program on the server's own machine gets no task without the secret."""
    client = RuntimeHttpClient.from_server_address(
        server_address=f"127.0.0.1:{server.ports.inner}",
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )
    with contextlib.closing(client), pytest.raises(httpx.HTTPStatusError) as caught:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))

    assert caught.value.response.status_code in {401, 403}
    config = ServerConfig.load(server.config)
    assert config.secret_file.stat().st_mode & 0o777 == 0o600
    assert superexec_secret(config) == config.secret_file.read_bytes()


def test_edge_keeps_a_record(server: Any, papers: Any, operator: Operator) -> None:
    """Who connected, under which certificate and TLS version, and how often somebody was refused."""
    get(server, papers, "/docs")
    with fleet(server, papers, "south", "south") as client:
        client.ActivateNode(activate(papers, "south"))
    path = ServerConfig.load(server.config).state / "edge" / "edge.json"
    record: dict[str, Any] = {"sites": {}}
    end = time.monotonic() + 10
    while "south" not in record["sites"] and time.monotonic() < end:
        time.sleep(0.1)
        record = json.loads(path.read_text())

    assert record["sites"]["south"]["tls_version"] == "TLSv1.3"
    assert len(record["sites"]["south"]["certificate_sha256"]) == 64
    assert record["sites"]["south"]["bytes_in"] > 0
    assert record["refused"]["path"] >= 1


def expect_refusal(
    command: list[str], *, code: str, status: int, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == status, done.stderr
    assert f"error {code}:" in done.stderr
    assert "\nfix: " in done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_port_in_use(
    server: Any,
    tmp_path: Path,
    free_ports: Callable[[], Any],
    write_server_toml: Callable[..., Path],
    server_command: Callable[..., list[str]],
) -> None:
    """STR-501 and exit status 6 at once; the server that has the port is not disturbed."""
    ports = type(server.ports)(edge=server.ports.edge, inner=free_ports().inner)
    config = write_server_toml(tmp_path, ports)

    done = expect_refusal(server_command("serve", "-c", config), code="STR-501", status=6)

    assert str(ports.edge) in done.stderr
    assert server.process.poll() is None


def test_world_readable_key(
    tmp_path: Path,
    papers: Any,
    free_ports: Callable[[], Any],
    write_server_toml: Callable[..., Path],
    server_command: Callable[..., list[str]],
) -> None:
    """STR-202 before a port is opened."""
    key = tmp_path / "open.key"
    shutil.copyfile(papers.key("server"), key)
    key.chmod(0o644)
    config = write_server_toml(tmp_path, free_ports(), key)

    expect_refusal(server_command("serve", "-c", config), code="STR-202", status=3)


def prepared_study(folder: Path) -> None:
    """The least a courier has: a study of one tensor."""
    spec = TensorSpec(name="w", shape=(2,), dtype="float32", group="g")
    digest = write_weights(folder / "weights", {"w": np.ones(2, np.float32)})
    stage = PreparedStage(initial_sha256=digest, manifest=Manifest(tensors=(spec,)))
    study = Study.parse(
        {
            "study": {"name": "knock", "max_update_norm": 100.0},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
            "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [{"name": "teach", "recipe": "teach", "label": "vessels"}],
        }
    )
    prepared = PreparedStudy(study=study, stages={"teach": stage})
    (folder / "study.json").write_text(prepared.model_dump_json())


def site_toml(folder: Path, server: Any, papers: Any, who: str, ca: Path, port: int) -> Path:
    """A hospital's configuration; it needs no data to knock at the edge."""
    folder.mkdir()
    prepared_study(folder / "study")
    (folder / "secret").write_text("s")
    (folder / "secret").chmod(0o600)
    path = folder / "site.toml"
    path.write_text(
        f'site = "north"\nserver = "127.0.0.1:{server.ports.edge}"\ndata = ["scans"]\n'
        f'state = "state"\nstudy = "study"\nrunner_secret = "secret"\nruntime_port = {port}\n'
        "unsigned_trial = true\n"
        f"[tls]\nca = '{ca}'\ncertificate = '{papers.certificate(who)}'\n"
        f"private_key = '{papers.key(who)}'\n"
    )
    return path


def test_couriers_that_are_not_let_in(
    server: Any,
    papers: Any,
    operator: Operator,
    tmp_path: Path,
    free_ports: Callable[[], Any],
) -> None:
    """Each ends within seconds, says why and what to do, and exits with its family's status."""
    ca, foreign = papers.folder / "ca.pem", papers.folder / "south.pem"
    port = free_ports().inner
    cases = {
        "newcomer": (papers, "newcomer", ca, port, "STR-206", 3),
        "expired": (papers, "expired", ca, free_ports().inner, "STR-201", 3),
        "wrong CA": (papers, "north", foreign, free_ports().inner, "STR-201", 3),
        "port in use": (papers, "north", ca, server.ports.inner, "STR-501", 6),
    }
    started = {}
    for name, (where, who, root, runtime, _, _) in cases.items():
        config = site_toml(tmp_path / name, server, where, who, root, runtime)
        module = ["-P", "-m", "stillroom.client.cli", "courier", "--config", str(config)]
        started[name] = subprocess.Popen(
            [sys.executable, *module], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    for name, process in started.items():
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        *_, code, status = cases[name]
        assert process.returncode == status, (name, errors)
        assert f"error {code}:" in errors, name
        assert "\nfix: " in errors, name
        assert "Traceback" not in errors, name


def test_registering_a_foreign_certificate(
    server: Any, papers: Any, server_command: Callable[..., list[str]], operator: Operator
) -> None:
    """The operator cannot let in by mistake whom the CA did not certify."""
    config = ["--config", server.config]
    command = server_command("site", "register", *config, papers.certificate("stranger"))
    expect_refusal(command, code="STR-201", status=3)
    assert set(operator.nodes()) == {"north", "south"}
