"""What courier and runner rely on in flwr 1.41, one assertion each."""

import inspect

import httpx
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, SubStatus
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    AcquireTaskResponse,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from stillroom.client import courier, runner
from stillroom.client.handover import EMPTY_FAB


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        "ActivateNode",
        "DeactivateNode",
        "SendNodeHeartbeat",
        "PullMessages",
        "PushMessages",
        "PullObject",
        "PushObject",
        "ConfirmMessageReceived",
    ],
)
def test_fleet_calls(call: str) -> None:
    """fleet.Edge: each takes one protobuf request."""
    assert parameters(getattr(FleetHttpClient, call)) == ["self", "request"], "fleet.Edge"


def test_fleet_client_takes_our_tls_context() -> None:
    """fleet.Edge gives an SSLContext with the client certificate as `verify`."""
    assert {"interceptors", "verify", "timeout"} <= set(parameters(FleetHttpClient.__init__))


def test_courier_never_asks_for_code() -> None:
    """courier: Flower has a call that fetches the FAB; we have no line that makes it."""
    assert hasattr(FleetHttpClient, "GetFab"), "the call this test is about has another name now"
    for module in (courier, runner):
        assert "GetFab" not in inspect.getsource(module)


def test_empty_fab_is_stored_under_the_hash_of_nothing() -> None:
    """handover.EMPTY_FAB: state hashes the content itself, so that what is empty stays empty."""
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
    name = state.store_fab(EMPTY_FAB)
    stored = state.get_fab(name)

    assert stored is not None
    assert stored.content == b"", "courier._hand_over"
    with pytest.raises(Exception, match=r"(?i)hash"):
        state.store_fab(Fab("0" * 64, b"code", {}))


def test_node_state() -> None:
    """courier._hand_over and _await_reply: runs, contexts, messages and tasks of a SuperNode."""
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()

    assert {"task_type", "run_id", "fab_hash"} <= set(parameters(state.create_task))
    assert "is_reply" in parameters(state.get_messages_legacy), "courier._await_reply"
    assert "message_ids" in parameters(state.delete_messages), "courier._await_reply"
    for name in ("set_node_id", "get_run", "store_run", "set_run_series_context", "store_message"):
        assert hasattr(state, name), f"courier calls NodeState.{name}"
    run = Run.create_empty(5)
    assert (run.run_id, hasattr(run, "fab_hash"), hasattr(run, "series_id")) == (5, True, True)


def test_a_task_needs_a_fab() -> None:
    """courier._hand_over: that is why an empty one is stored at all."""
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
    text = inspect.getsource(type(state).create_task)

    assert "fab_hash" in text, "courier._hand_over"
    assert TaskType.CLIENT_APP == "flwr-clientapp", "courier and runner"


def test_object_store() -> None:
    """courier: what is not there yet is b'', what was withdrawn is None."""
    for name in ("preregister", "put", "get", "delete", "get_object_tree"):
        assert hasattr(ObjectStore, name), f"courier calls ObjectStore.{name}"
    assert ObjectStoreFactory().store().get("absent") is None, "courier._contents"


def test_protobuf_fields() -> None:
    """courier: fields by name, because protobuf forgets them silently."""
    assert {"public_key", "heartbeat_interval"} <= set(
        ActivateNodeRequest.DESCRIPTOR.fields_by_name
    )
    assert {"messages_list", "message_object_trees"} <= set(
        PullMessagesResponse.DESCRIPTOR.fields_by_name
    )
    assert {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"} <= set(
        PushMessagesRequest.DESCRIPTOR.fields_by_name
    )
    assert {"objects_to_push", "session_id"} <= set(PushMessagesResponse.DESCRIPTOR.fields_by_name)
    assert "supported_task_types" in AcquireTaskRequest.DESCRIPTOR.fields_by_name, "runner"
    assert {"task", "token"} <= set(AcquireTaskResponse.DESCRIPTOR.fields_by_name), "runner"
    assert HEARTBEAT_DEFAULT_INTERVAL >= 3, "courier._beat divides it by three"


def test_runtime_api() -> None:
    """courier.runtime_listener: the Runtime API, tasks only against the secret."""
    assert {"state_factory", "superexec_auth_secret"} <= set(parameters(create_app))


def test_runner_steps() -> None:
    """runner._do_task: Flower's own steps around an app, without the one that loads the FAB."""
    assert parameters(pull_task_input)[0] == parameters(push_message)[0], "both take the client"
    assert len(parameters(push_message)) >= 3
    assert len(parameters(push_task_output)) >= 4
    assert SubStatus.COMPLETED
    assert callable(HeartbeatSender)
    assert parameters(make_task_heartbeat_fn_http)
    wanted = {"server_address", "insecure", "root_certificates", "interceptors"}
    assert wanted <= set(parameters(RuntimeHttpClient.from_server_address))
    assert "token" in parameters(RuntimeTokenHttpInterceptor.__init__)
    assert "component_name" in parameters(RuntimeVersionHttpInterceptor.__init__)
    assert {"master_secret", "protected_methods"} <= set(
        parameters(SuperExecAuthHttpInterceptor.__init__)
    )


def test_one_client_carries_every_call() -> None:
    """runtime_client: put another httpx.Client in its place, and nothing goes anywhere else."""
    seen = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return httpx.Response(200)

    client = RuntimeHttpClient("http://courier", verify=False)
    assert isinstance(client._client, httpx.Client)
    client._client.close()
    client._client = httpx.Client(transport=httpx.MockTransport(take))
    client.AcquireTask(AcquireTaskRequest())
    client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    client.close()
    assert seen == ["/v1/runtime/acquire-task", "/v1/runtime/send-task-heartbeat"]
    assert client._client.is_closed


def test_apps_are_plain_callables(inside_a_task: None) -> None:
    """runner.answer: an app is called with a message and a context; kinds have action names."""
    app = ClientApp()

    @app.query("inventory")
    def count(message: Message, context: Context) -> Message:
        assert context.node_config == {"a": "b"}
        return Message(RecordDict(), reply_to=message)

    context = Context(1, 1, {"a": "b"}, RecordDict(), {})
    message = Message(RecordDict(), 1, "query.inventory")
    assert not app(message=message, context=context).has_error()
    with pytest.raises(ValueError, match=r"(?i)query"):
        app(message=Message(RecordDict(), 1, "query.other"), context=context)
