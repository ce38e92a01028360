"""The calls an operator makes of a running server: sites in and out, runs started and stopped.

Over the inner listener, which only this machine reaches. What this module relies on in flwr 1.41
is held by tests/server/test_flower_contract.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab

from stillroom.common.errors import ConfigError, ResourceError
from stillroom.server.config import ServerConfig
from stillroom.server.logbook import log_settings

T = TypeVar("T")


class Operator:
    """What an operator asks of a running server, over the inner listener."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._client = ControlHttpClient.from_server_address(
            config.inner_address, insecure=True, root_certificates=None, interceptors=[]
        )

    def register(self, site: str, public_key_pem: bytes) -> int:
        """Allow a site's node key; returns Flower's node id."""
        answer = self._ask(
            self._client.RegisterNode, RegisterNodeRequest(public_key=public_key_pem, name=site)
        )
        return int(answer.node_id)

    def keys(self) -> dict[bytes, int]:
        """Public key (PEM) -> node id of every node that is registered now."""
        answer = self._ask(self._client.ListNodes, ListNodesRequest())
        return {
            node.public_key: node.node_id
            for node in answer.nodes_info
            if node.status != "unregistered"
        }

    def unregister(self, node_id: int) -> None:
        """Forget a node; its key is refused from now on."""
        self._ask(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> dict[str, str]:
        """Site name -> status of every registered node."""
        answer = self._ask(self._client.ListNodes, ListNodesRequest())
        return {node.name: node.status for node in answer.nodes_info}

    def start(self, study: Path, run: Path, name: str = "") -> int:
        """Start a process for the study prepared in folder ``study``, recording into folder ``run``.

        It goes on from what it finds there.

        Args:
            study: Of the prepared study.
            run: Where it is recorded.
            name: Of the run in the table of runs, where it is asked whether it is to go on.

        Raises:
            ResourceError: STR-502, STR-504.
        """
        config = self._config
        settings: dict[str, bool | float | int | str] = {
            "sites": ",".join(sorted(self.nodes())),
            "study": str(study.resolve()),
            "run": str(run.resolve()),
            "inner": config.inner_address,
            "poll-s": config.poll_s,
            "connect-s": config.connect_s,
            "registry": str(config.registry.resolve()) if config.registry else "",
            "depot": str(config.depot.resolve()),
            "starts": str(config.arrivals.resolve()),
            "runs": str(config.runs.resolve()) if name else "",
            "name": name,
            **log_settings(config),
        }
        content = _bundle()
        answer = self._ask(
            self._client.StartRun,
            StartRunRequest(
                fab=fab_to_proto(Fab("", content, {})),
                override_config=user_config_to_proto(settings),
            ),
        )
        if not answer.HasField("run_id"):
            raise ResourceError(
                "The server did not start the run.", fix="Look at the server's log.", code="STR-502"
            )
        return int(answer.run_id)

    def stop(self, run_id: int) -> None:
        """Stop a run."""
        self._ask(self._client.StopRun, StopRunRequest(run_id=run_id))

    def status(self, run_id: int) -> str:
        """Flower's status of a run, e.g. ``running`` or ``finished:completed``."""
        answer = self._ask(self._client.ListRuns, ListRunsRequest(run_id=run_id))
        run = answer.run_dict[run_id]
        return ":".join(part for part in (run.status.status, run.status.sub_status) if part)

    def _ask(self, method: Callable[[Any], T], request: Any) -> T:
        """One call.

        Raises:
            ResourceError: STR-504, no server at the inner address.
            ConfigError: The server does not know what was named.
        """
        try:
            return method(request)
        except httpx.TransportError as error:
            raise ResourceError(
                f"No server answers at {self._config.inner_address}.",
                fix="Start it with `stillroom-server serve`, on this machine.",
                code="STR-504",
            ) from error
        except httpx.HTTPStatusError as error:
            raise ConfigError(
                f"The server refused {method.__name__} (HTTP {error.response.status_code}).",
                fix="Check the name or number; its log says more.",
            ) from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _bundle() -> bytes:
    """The smallest FAB Flower accepts: it names the installed apps and carries no code of its own.

    Sites never fetch it; the server's SuperExec unpacks a pyproject.toml and a licence line.
    """
    project = """
[project]
name = "stillroom-study"
version = "1.0.0"
description = "Runs the installed stillroom ServerApp."
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<1.42"]
[tool.flwr.app]
publisher = "stillroom"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "stillroom.server.app:app"
clientapp = "stillroom.client.app:app"
[tool.flwr.app.config]
study = ""
run = ""
sites = ""
inner = ""
poll-s = 2.0
connect-s = 600.0
registry = ""
depot = ""
starts = ""
runs = ""
name = ""
log = ""
log-guard = ""
log-key = ""
log-origin = ""
log-cosigned = ""
"""
    files = {"pyproject.toml": project.encode("utf-8"), "LICENSE": b"Apache-2.0\n"}
    content, _ = build_fab_from_files(files)
    return content
