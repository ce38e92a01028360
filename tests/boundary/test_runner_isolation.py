"""A real round, with a runner that is on no network: what it sends is counted, and it is nothing."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stillroom.client.ledger import read
from stillroom.common.nn.prepare import prepare_study
from stillroom.common.study import Study
from stillroom.deploy.consortium_files import (
    Layout,
    agree,
    found_consortium,
    write_server_config,
    write_site_config,
)
from stillroom.deploy.hospitals import label_rules
from stillroom.deploy.phantom.consortium import SiteSpec, make_consortium
from stillroom.server.config import ServerConfig
from stillroom.server.enrolment import Authority
from stillroom.server.foundation import renew_server_certificate
from stillroom.server.store.runs import Runs


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


namespaces = _load("namespaces")
SERVER, SITE, TIMEOUT_S = namespaces.ADDRESSES["srv"], "river", 240
pytestmark = pytest.mark.skipif(
    namespaces.missing() is not None, reason=str(namespaces.missing() or "")
)

STUDY = Study.parse(
    {
        "study": {"name": "isolated", "quorum": {"deadline_s": 200}, "validation_fraction": 0.5},
        "volume": {"spacing_mm": [8.0, 8.0, 8.0], "patch": [32, 32, 32]},
        "label": {"vessels": {"kind": "mask", "classes": ["AO", "PA"]}},
        "model": {
            "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
            "student": {"arch": "light-swin", "feature_size": 12},
        },
        "stage": [
            {
                "name": "teach",
                "recipe": "teach",
                "label": "vessels",
                "train": {"steps": 1, "batch_size": 1},
            },
            {"name": "label", "recipe": "pseudolabel", "teachers": ["teach"]},
            {"name": "student", "recipe": "distil", "train": {"steps": 1, "batch_size": 1}},
        ],
    }
)


@dataclass(frozen=True)
class Played:
    """A study that was played to its end.

    Attributes:
        layout: What is on the disk.
        runner, courier: Packets counted meanwhile.
        hosts: Still up.
    """

    layout: Layout
    runner: dict[str, int]
    courier: dict[str, int]
    hosts: Any


def write_papers(layout: Layout) -> Path:
    """A consortium of one hospital, reached at the address of the server's namespace."""
    prepare_study(STUDY, layout.study)
    spec = SiteSpec(SITE, "river", {"vessels": "nifti"}, labelled=2, unlabelled=1)
    (hospital,) = make_consortium(layout.out / "scans", sites=[spec], workers=1)
    found_consortium(layout, [SITE])
    server = write_server_config(layout, edge_port=443, inner_port=8000)
    server.write_text(
        server.read_text().replace('edge_host = "127.0.0.1"', 'edge_host = "0.0.0.0"')
    )
    config = ServerConfig.load(server)
    renew_server_certificate(Authority.load(config), config.tls, [SERVER], datetime.now(UTC))
    site = write_site_config(
        layout,
        SITE,
        server_port=443,
        data=[hospital.folder],
        labels=label_rules(hospital, STUDY),
        threads=1,
        seed=0,
    )
    site.write_text(site.read_text().replace("127.0.0.1:443", f"{SERVER}:443"))
    agree(layout, [SITE])
    return server


def start(stack: ExitStack, layout: Layout, hosts: Any, host: str, *command: str) -> None:
    """One of the four processes, in its namespace, until the stack is unwound."""
    layout.logs.mkdir(exist_ok=True)
    log = stack.enter_context((layout.logs / f"{command[1]}.log").open("wb"))
    process = subprocess.Popen(
        hosts.command(
            host, [sys.executable, "-P", "-m", f"stillroom.{command[0]}.cli", *command[1:]]
        ),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FLWR_HOME": str(layout.out / f"flwr-{host}")},
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    stack.callback(lambda: process.poll() is None and (process.terminate(), _give(process, 10)))


def _give(process: subprocess.Popen[bytes], seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Inventory, a teacher's round, labelling, the student's round, scores."""
    layout, hosts = Layout(tmp_path_factory.mktemp("isolated") / "out"), namespaces.Hosts()
    layout.out.mkdir()
    server = write_papers(layout)
    with ExitStack() as stack:
        stack.callback(hosts.down)
        try:
            hosts.up()
        except subprocess.CalledProcessError:
            pytest.skip("this kernel or container allows no network namespaces, veth or bridge")
        hosts.allow_only(SERVER, 443)
        hosts.count_all("runner")
        site = str(layout.site_config(SITE))
        start(stack, layout, hosts, "srv", "server", "serve", "-c", str(server))
        start(stack, layout, hosts, "runner", "client", "runner", "-c", site)
        start(stack, layout, hosts, "srv", "server", "execute", "-c", str(server))
        start(stack, layout, hosts, "site", "client", "courier", "-c", site)
        with Runs(ServerConfig.load(server).runs) as runs:
            runs.add("isolated", layout.study, layout.run, time.time())
        end = time.monotonic() + TIMEOUT_S
        while not (layout.run / "result.json").exists() and time.monotonic() < end:
            time.sleep(0.2)
        yield Played(layout, hosts.counters("runner"), hosts.counters("site"), hosts)


def logs(layout: Layout) -> str:
    """The end of every log, for a failure."""
    return "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in layout.logs.glob("*.log"))


def test_the_study_is_finished(played: Played) -> None:
    """With the courier in one namespace and the runner in another, a round is a round."""
    assert (played.layout.run / "result.json").exists(), logs(played.layout)
    result = json.loads((played.layout.run / "result.json").read_text())
    assert result["status"] == "completed", result
    ledger = read(played.layout.site(SITE) / "courier" / "ledger.jsonl")
    assert {line.stage for line in ledger if line.kind == "sent" and line.bytes} == {
        "teach",
        "student",
    }


def test_the_runner_sent_nothing(played: Played) -> None:
    """Not one packet, not even to itself: the counter counts lo, too, were it up."""
    assert played.runner == {"sent": 0, "received": 0}


def test_the_courier_spoke_to_the_server_alone(played: Played) -> None:
    """The round's packets went to one address and port; none to anywhere else."""
    assert played.courier["allowed"] > 100
    assert (played.courier["denied out"], played.courier["denied in"]) == (0, 0)


def test_the_runners_counter_counts(played: Played) -> None:
    """With lo up, a packet to itself is seen; otherwise the test above is void."""
    up = ["ip", "link", "set", "lo", "up"]
    subprocess.run(played.hosts.command("runner", up), check=True)
    send = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
    subprocess.run(played.hosts.command("runner", [sys.executable, "-c", send]), check=True)
    assert played.hosts.counters("runner")["sent"] > 0
