"""An operator ships code to the sites. It runs on the operator's server, and nowhere else."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files

from stillroom.common.nn.prepare import prepare_study
from stillroom.common.study import Study
from stillroom.deploy.consortium_files import (
    Layout,
    agree,
    found_consortium,
    write_server_config,
    write_site_config,
)
from stillroom.deploy.processes import Processes, free_ports
from stillroom.server import operator as operating
from stillroom.server.config import ServerConfig
from stillroom.server.operator import Operator

SITE = "north"
TINY = Path(__file__).with_name("tiny.toml")

SHIPPED = '''
"""What a curious operator might send: it leaves a mark wherever it is imported."""
import json, os, pathlib, sys, time
HERE = pathlib.Path({marks!r})
(HERE / f"{{os.getpid()}}.mark").write_text(" ".join(sys.orig_argv))
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
app, client = ServerApp(), ClientApp()

@client.query("inventory")
def steal(message, context):
    (HERE / f"{{os.getpid()}}.mark").write_text("ran")
    return Message(RecordDict(), reply_to=message)

client.train("shell")(steal)

def ask(grid, node, kind, study):
    task = ConfigRecord({{"study": study, "stage": "", "round": 0}})
    message = Message(RecordDict({{"task": task}}), node, kind, ttl=60)
    (name,) = grid.push_messages([message])
    end = time.time() + 60
    while time.time() < end:
        for reply in grid.pull_messages([name]):
            if reply.has_error():
                return reply.error.reason
            return dict(reply.content.metric_records["metrics"])
        time.sleep(0.2)
    return "silence"

@app.main()
def main(grid, context):
    while not list(grid.get_nodes()):
        time.sleep(0.2)
    (node,) = [node.node_id for node in grid.get_nodes()]
    answers = [
        ask(grid, node, "query.inventory", context.run_config["study"].rsplit("/", 1)[-1]),
        ask(grid, node, "query.inventory", "0" * 64),
        ask(grid, node, "train.shell", "0" * 64),
    ]
    (HERE / "answers.tmp").write_text(json.dumps(answers))
    (HERE / "answers.tmp").rename(HERE / "answers.json")
'''


def hostile_fab(marks: Path) -> bytes:
    """Our own FAB with another module in it, named as both apps."""
    with zipfile.ZipFile(io.BytesIO(operating._bundle())) as bundle:
        project = bundle.read("pyproject.toml").decode()
    project = project.replace("stillroom.server.app:app", "shipped:app")
    project = project.replace("stillroom.client.app:app", "shipped:client")
    assert "shipped:client" in project
    files = {
        "pyproject.toml": project.encode(),
        "LICENSE": b"Apache-2.0\n",
        "shipped.py": SHIPPED.format(marks=str(marks)).encode(),
    }
    return build_fab_from_files(files)[0]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Layout, Path, str]]:
    """Server, SuperExec, one courier and one runner, and a run that ships a module."""
    layout = Layout(tmp_path_factory.mktemp("shipped"))
    prepared = prepare_study(Study.load(TINY), layout.study)
    marks, scans = layout.out / "marks", layout.out / "scans"
    marks.mkdir()
    scans.mkdir()
    inner, edge = free_ports(2)
    found_consortium(layout, [SITE])
    config = write_server_config(layout, edge_port=edge, inner_port=inner)
    site = write_site_config(
        layout,
        SITE,
        server_port=edge,
        data=[scans],
        labels={},
        threads=1,
        seed=0,
    )
    agree(layout, [SITE])
    processes = Processes(layout.logs)
    client = "stillroom.client.cli"
    try:
        processes.start(
            "server",
            "stillroom.server.cli",
            ["serve", "--config", str(config)],
            env={"FLWR_HOME": str(layout.server / "flwr")},
        )
        env = {"FLWR_HOME": str(layout.site(SITE) / "flwr")}
        processes.start("runner", client, ["runner", "--config", str(site)], env=env)
        processes.wait_for_port("server", inner)
        fab = hostile_fab(marks)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(operating, "_bundle", lambda: fab)
            operator = Operator(ServerConfig.load(config))
            while SITE not in operator.nodes():  # Flower's nodes follow the registry
                processes.check()
                time.sleep(0.1)
            operator.start(layout.out / prepared.digest, layout.run)
            operator.close()
        processes.start("courier", client, ["courier", "--config", str(site)], env=env)
        processes.start(
            "superexec", "stillroom.server.cli", ["execute", "--config", str(config)], env={}
        )
        end = time.monotonic() + 120
        while not (marks / "answers.json").exists() and time.monotonic() < end:
            processes.check()
            time.sleep(0.2)
        yield layout, marks, datetime.now(UTC).isoformat()
    finally:
        processes.stop()


def test_the_site_answers_by_its_installed_code(consortium: tuple[Layout, Path, str]) -> None:
    """Its own inventory for its own study; a code for anything else."""
    layout, marks, _ = consortium
    assert (marks / "answers.json").exists(), (layout.logs / "superexec.log").read_text()
    mine, other, unknown = json.loads((marks / "answers.json").read_text())

    assert mine["inventory.cases"] == 0
    assert other == "STR-205"
    assert unknown == "STR-300"  # a type of message that no study knows: the gate's own word


def test_shipped_code_ran_at_the_server_alone(consortium: tuple[Layout, Path, str]) -> None:
    """Its mark is there, so it does leave one; and only the operator's own process left it."""
    _, marks, _ = consortium
    left = [path.read_text() for path in marks.glob("*.mark")]

    assert left
    assert all("flwr-serverapp" in line for line in left), left


def test_the_site_never_holds_the_code(consortium: tuple[Layout, Path, str]) -> None:
    """Not unpacked, not installed, not even fetched."""
    layout, _, _ = consortium
    files = [path for path in layout.site(SITE).rglob("*") if path.is_file()]

    assert files
    assert not [path for path in files if b"curious operator" in path.read_bytes()]
    assert not list(layout.site(SITE).rglob("*.py"))
