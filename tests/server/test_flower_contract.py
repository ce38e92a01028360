"""What the server relies on in flwr 1.41, one assertion each. An upgrade starts by reading these."""

import dataclasses
import importlib.metadata
import inspect
import io
import itertools
import os
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.control_pb2 import StartRunRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLWR_IN_MEMORY_DB_NAME,
    NOOP_FEDERATION_ID,
    TaskType,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error.base import ApiErrorCode
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.fab import Fab
from flwr.supercore.retry import http_retry, make_simple_http_retry_invoker
from flwr.supercore.superexec.run_superexec import run_superexec
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import (
    SuperLinkLifespanConfig,
    get_federation_manager,
    get_objectstore_linkstate_factories,
)
from flwr.superlink.main import create_app
from uvicorn.protocols.http.h11_impl import H11Protocol

from stillroom.common.messages import INVENTORY, LABEL, MESSAGE_TYPES, ROUND, STAGE
from stillroom.common.pki.issue import new_key
from stillroom.common.pki.verify import flower_public_key
from stillroom.server import operator as operating
from stillroom.server import superexec, superlink
from stillroom.server.config import IN_MEMORY, ServerConfig
from stillroom.server.layers import LayerBelow, without_idle_layers
from stillroom.server.nodes import take_offline, withdraw_overtaken


def parameters(function: object) -> set[str]:
    return set(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_version() -> None:
    """Everything below was read in 1.41."""
    assert importlib.metadata.version("flwr").startswith("1.41."), (
        "pyproject.toml pins flwr==1.41.*"
    )


def test_create_app() -> None:
    """superlink.serve: one ASGI application that can be served by two uvicorn servers."""
    assert (
        list(inspect.signature(create_app).parameters)[:2] == ["config", "lifespan_class"]
        or len(inspect.signature(create_app).parameters) >= 2
    ), "superlink.serve calls create_app(config, SuperLinkLifespan)"
    assert "config" in parameters(SuperLinkLifespan.__init__), "superlink.serve"


def test_lifespan_config_fields() -> None:
    """superlink._lifespan_config: every field is given; a new one needs a decision of ours."""
    fields = {field.name for field in dataclasses.fields(SuperLinkLifespanConfig)}
    ours = inspect.getsource(superlink._lifespan_config)

    assert {name for name in fields if f"{name}=" not in ours} == set()
    assert {
        "enable_supernode_auth",
        "isolation",
        "runtime_dependency_install",
        "database",
    } <= fields


def test_all_sensitive_apis_share_the_application() -> None:
    """edge.FLEET: Control and Runtime are behind the same port, which is why the gate exists."""
    from flwr.superlink import main

    text = inspect.getsource(main)
    for router in ("fleet", "control", "runtime"):
        assert router in text, f"edge.py assumes that create_app serves {router}"


def test_public_key_header() -> None:
    """edge.FleetGate reads this header; Flower writes base64 of the PEM public key into it."""
    assert FLEET_HTTP_PUBLIC_KEY_HEADER == "flwr-public-key"

    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    key = new_key().public_key()
    assert public_key_to_bytes(key) == flower_public_key(key), "edge.refusal compares these bytes"


def test_401_stays_401() -> None:
    """edge: Flower's client maps 403 to "run not running" and goes on; 401 ends it."""
    from flwr.supercore.retry import http_retry

    text = inspect.getsource(http_retry)
    assert "RunNotRunningException" in text
    assert "UNAUTHORIZED" in text
    assert httpx.codes.UNAUTHORIZED == 401


def test_fleet_cannot_register_itself() -> None:
    """superlink: with supernode auth on, only the operator registers keys."""
    from flwr.superlink.servicer.fleet import fleet_handlers

    for handler in (fleet_handlers.register_node, fleet_handlers.unregister_node):
        assert "if enable_supernode_auth" in inspect.getsource(handler), (
            "superlink._lifespan_config"
        )


def test_uvicorn_protocol_has_state() -> None:
    """edge.PeerProtocol leaves the peer in app_state, which uvicorn copies into scope['state']."""
    text = inspect.getsource(H11Protocol)
    assert "self.app_state" in text
    assert '"state": self.app_state.copy()' in text


def test_control_client() -> None:
    """operator.Operator: the calls of an operator, over plain HTTP on loopback."""
    wanted = {"server_address", "insecure", "root_certificates", "interceptors"}
    assert wanted <= parameters(ControlHttpClient.from_server_address)
    for name in ("RegisterNode", "ListNodes", "StartRun", "StopRun", "ListRuns", "close"):
        assert hasattr(ControlHttpClient, name), f"operator.Operator calls {name}"
    assert {"fab", "override_config"} <= set(StartRunRequest.DESCRIPTOR.fields_by_name)
    assert StartRunRequest().override_config is not None


def test_superexec() -> None:
    """superexec.execute: with the secret and without installation at run time."""
    wanted = {
        "runtime_api_address",
        "insecure",
        "superexec_auth_secret",
        "runtime_dependency_install",
    }
    assert wanted <= parameters(run_superexec)


def test_the_pauses_of_a_superexec_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """superexec.execute: a SuperLink that was away is asked again within seconds, not twenty."""
    monkeypatch.setattr(http_retry, "MAX_RETRY_DELAY", http_retry.MAX_RETRY_DELAY)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    pauses: list[float] = []

    def run(**_: object) -> None:
        waits = make_simple_http_retry_invoker().wait_gen_factory()
        pauses.extend(itertools.islice(waits, 10))

    monkeypatch.setattr(superexec, "run_superexec", run)
    superexec.execute(ServerConfig.model_construct(state=tmp_path, inner_port=1))
    assert max(pauses) == superexec.RETRY_MOST_S


def test_smallest_fab() -> None:
    """operator._bundle: a FAB without a line of code is accepted."""
    assert list(inspect.signature(Fab).parameters) == ["hash_str", "content", "verifications"]
    with zipfile.ZipFile(io.BytesIO(operating._bundle())) as bundle:
        names = bundle.namelist()
    assert not [name for name in names if name.endswith(".py")]
    assert callable(build_fab_from_files)


@pytest.fixture(params=[":flwr-in-memory:", "flower.db"])
def link_state(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Flower's state as the server has it, with and without a registry; one node, harbour's."""
    name = request.param if request.param.startswith(":") else str(tmp_path / request.param)
    manager = get_federation_manager(is_simulation=False)
    state = get_objectstore_linkstate_factories(name, manager)[1].state()
    state.create_node("owner", "owner", b"key", 0.0, name="harbour")
    return state


def test_a_node_that_was_killed_can_be_admitted_again(link_state: Any) -> None:
    """nodes.take_offline: ONLINE keeps others out for a minute; OFFLINE lets the next one in."""
    node = link_state.get_node_id_by_public_key(b"key")
    assert link_state.activate_node(node, 30.0)
    assert not link_state.activate_node(node, 30.0), "nodes.take_offline is no longer needed"

    assert take_offline(link_state, "harbour")
    assert link_state.activate_node(node, 30.0)
    assert take_offline(link_state, "harbour")
    assert take_offline(link_state, "harbour"), "known, and away already"
    assert not take_offline(link_state, "river")


def test_a_late_site_gets_the_newest_task(link_state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """nodes.withdraw_overtaken: Flower hands out the oldest first; what was overtaken is not given."""
    run = link_state.create_run(
        "a/b", "1", "", {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP
    )
    node = link_state.get_node_id_by_public_key(b"key")
    link_state.activate_node(node, 30.0)
    for name, value in (("_run_id", run), ("_node_id", SUPERLINK_NODE_ID), ("_task_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)

    def put(kind: str, turn: int) -> str:
        message = Message(RecordDict(), node, MESSAGE_TYPES[kind], group_id=str(turn), ttl=100.0)
        message.metadata.__dict__["_message_id"] = f"{kind} {turn}"
        return str(link_state.store_message_ins(message))

    def given() -> str | None:
        found = link_state.get_message_ins(node, limit=1)
        return found[0].metadata.message_id if found else None

    early = put(ROUND, 1), put(ROUND, 2)
    assert given() == early[0], "nodes.withdraw_overtaken is no longer needed"
    asked = [
        put(k, t) for k, t in ((STAGE, 3), (INVENTORY, 4), (LABEL, 5), (ROUND, 9), (ROUND, 10))
    ]
    if not hasattr(link_state, "message_ins_store"):
        assert withdraw_overtaken(link_state) == 0
        return
    assert withdraw_overtaken(link_state) == 4
    assert withdraw_overtaken(link_state) == 0
    assert [given(), given(), given()] == [asked[2], asked[4], None]
    # A study's process goes on looking for answers to all of them, and must not be failed for it.
    link_state.get_message_res({*early, *asked}, run)


def test_where_flower_keeps_its_state() -> None:
    """config.database: the name of the state in memory, and who gives the state to superlink._arrived."""
    from flwr.superlink import main

    assert IN_MEMORY == FLWR_IN_MEMORY_DB_NAME
    assert "fastapi_app.state.linkstate_factory = linkstate_factory" in inspect.getsource(main)


def test_a_runtime_token_of_another_life_is_unauthorized() -> None:
    """exchange._require_away: 401 is what a study's process hears of a SuperLink that started anew."""
    spec = API_ERROR_MAP[ApiErrorCode.RUNTIME_AUTHENTICATION_FAILED]
    assert spec.http_status_code == httpx.codes.UNAUTHORIZED


def test_a_node_of_another_life_is_unauthorized() -> None:
    """fleet.Edge: 401 after an admission means that the server has started anew; 412 that it waits."""
    from flwr.superlink.routers.fleet import node_auth

    text = inspect.getsource(node_auth.authenticate_node)
    assert "Invalid node ID" in text
    assert "HTTP_401_UNAUTHORIZED" in text
    spec = API_ERROR_MAP[ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED]
    assert spec.http_status_code == httpx.codes.PRECONDITION_FAILED


def test_layers_that_have_nothing_to_do() -> None:
    """layers.without_idle_layers: what is left authenticates, translates and reports errors."""
    from flwr.superlink.routers.fleet import middlewares

    config = ServerConfig.model_construct(state=Path("state"), inner_port=8000, registry=Path("r"))
    app = create_app(superlink._lifespan_config(config, b"secret"), SuperLinkLifespan)
    before = [getattr(layer.cls, "__name__", "") for layer in app.user_middleware]
    kept = without_idle_layers(app).user_middleware
    after = [
        (layer.args[0].cls.__name__, layer.args[1])
        if layer.cls is LayerBelow
        else (getattr(layer.cls, "__name__", ""), "")
        for layer in kept
    ]

    assert after == [
        ("ControlSensitiveResponseMiddleware", "/v1/control/"),
        ("BaseHTTPMiddleware", ""),
        ("ControlAuthenticationMiddleware", "/v1/control/"),
        ("ProtobufTranslationMiddleware", ""),
        ("NodeAuthMiddleware", "/v1/fleet/"),
    ]
    assert len(before) == len(after) + 4, "a new layer needs a decision of ours"
    assert "fleet_event_log_plugin" in inspect.getsource(middlewares)


def test_grid() -> None:
    """app.GridExchange: push, pull by name, and nodes with the names they were registered with."""
    assert {"get_nodes", "push_messages", "pull_messages"} <= set(dir(Grid))
    from flwr.proto.node_pb2 import NodeInfo

    assert {"name", "node_id"} <= set(NodeInfo.DESCRIPTOR.fields_by_name), "GridExchange.sites"


def test_messages(inside_a_task: None) -> None:
    """common.messages: records by kind, foreign bytes as an array, errors with a reason."""
    array = Array("uint8", (3,), "safetensors", b"abc")
    content = RecordDict({"w": ArrayRecord({"f": array}), "m": MetricRecord({"a": 1})})
    message = Message(content, 7, "train.round", group_id="1", ttl=5.0)

    assert list(message.content.array_records) == ["w"], "messages.read_reply"
    assert list(message.content.metric_records) == ["m"], "messages.read_reply"
    assert list(message.content.config_records) == [], "messages.read_reply"
    copy = Array.inflate(array.deflate(), children=array.children)
    assert (copy.stype, copy.data) == ("safetensors", b"abc"), "messages._arrays"
    failed = Message(Error(1, "STR-401"), reply_to=message)
    assert failed.has_error(), "messages.read_reply"
    assert (failed.error.code, failed.error.reason) == (1, "STR-401"), "messages.failure_code"
    assert type(content["m"]["a"]) is int, "messages.read_reply tells counts from fractions"


def test_messages_need_a_task() -> None:
    """tests/conftest and deploy.local_grid set the identity of the task; nothing else does."""
    from flwr.supercore.task_identity import TaskIdentity

    if TaskIdentity._run_id is None:
        with pytest.raises(RuntimeError, match="run_id"):
            Message(RecordDict(), 7, "query")


def test_no_ten_megabyte_array_is_split_wrongly() -> None:
    """common.messages: one blob, split by Flower into chunks and put together again."""
    from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

    data = bytes(FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 10)
    array = Array("uint8", (len(data),), "safetensors", data)
    assert len(array.slice_array()) == 2, "messages._arrays"
    assert Array.inflate(array.deflate(), children=array.children).data == data


def test_the_pause_for_an_object_on_its_way_is_ours() -> None:
    """arrivals.look_sooner: the Grid pulls through this name, and Flower's own pause is a second."""
    import inspect

    from flwr.supercore.inflatable import inflatable_utils
    from flwr.superlink.grid import http_grid

    names = inspect.signature(inflatable_utils.pull_objects).parameters
    assert names["initial_backoff"].default >= 1, "arrivals.look_sooner is no longer needed"
    assert "pull_objects(" in inspect.getsource(http_grid.HttpGrid.pull_messages)
