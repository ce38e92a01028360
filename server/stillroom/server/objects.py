"""Objects of messages by a short way (``common.shortcut``): Flower's own checks and its own store.

What Flower does with such a request is done, in its order: the peer's version, who is asking, what
is asked. Left out is what carries a request from one of these to the next.

What this relies on in flwr 1.41 is held by tests/server/test_flower_contract.py.
"""

from collections.abc import Callable
from typing import Any, cast

from fastapi import FastAPI, Request
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.runtime import get_runtime_state
from flwr.supercore.dependencies.task import authenticate_task
from flwr.supercore.dependencies.version import VersionDependency
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from starlette.types import Scope

from stillroom.common.shortcut import Way

FLEET, RUNTIME = "/v1/fleet/", "/v1/runtime/"


def fleet_ways(app: FastAPI) -> dict[str, Way]:
    """The ways of objects from and to sites; every request is signed by the site's node key."""

    def way(kind: type, handler: Callable[..., Any]) -> Way:
        def go(scope: Scope, body: bytes) -> bytes:
            request = Request({**scope, "app": app, "state": {}})
            asked = request.state.protobuf_request = kind.FromString(body)  # type: ignore[attr-defined]
            authenticate_node(request)
            return cast(bytes, handler(asked, get_linkstate(request)).SerializeToString())

        return go

    return {
        f"{FLEET}pull-object": way(PullObjectRequest, fleet_handlers.pull_object),
        f"{FLEET}push-object": way(PushObjectRequest, fleet_handlers.push_object),
    }


def runtime_ways(app: FastAPI) -> dict[str, Way]:
    """The ways of objects from and to the processes of studies, which show the token of their task."""
    check = VersionDependency(
        component_name="SuperLink", connection_name="Caller <-> SuperLink Runtime API"
    )

    def way(kind: type, handler: Callable[..., Any]) -> Way:
        def go(scope: Scope, body: bytes) -> bytes:
            request = Request({**scope, "app": app})
            check(request)
            state = get_runtime_state(request)
            task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER), state)
            asked = kind.FromString(body)  # type: ignore[attr-defined]
            return cast(bytes, handler(asked, state, task).SerializeToString())

        return go

    return {
        f"{RUNTIME}pull-object": way(PullObjectRequest, runtime_handlers.pull_object),
        f"{RUNTIME}push-object": way(PushObjectRequest, runtime_handlers.push_object),
    }
