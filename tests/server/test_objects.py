"""Objects by the short way: the same answers and the same refusals as by Flower's long one."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.main import create_app
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from stillroom.common.parcel import frame
from stillroom.common.shortcut import Shortcut
from stillroom.server import superlink
from stillroom.server.config import ServerConfig
from stillroom.server.layers import without_idle_layers
from stillroom.server.objects import fleet_ways, runtime_ways

CONTENT = frame("ConfigRecord", (), b"{}")
OBJECT = hashlib.sha256(CONTENT).hexdigest()


class Link:
    """A SuperLink's application with a node, a run, its task, and one object."""

    def __init__(self) -> None:
        config = ServerConfig.model_construct(
            state=Path("state"), inner_port=8000, registry=Path("r")
        )
        app = create_app(superlink._lifespan_config(config, b"secret"), SuperLinkLifespan)
        self.app = without_idle_layers(app)
        self.key = ec.generate_private_key(ec.SECP384R1())
        state = app.state.linkstate_factory.state()
        public = public_key_to_bytes(self.key.public_key())
        self.node = state.create_node("owner", "owner", public, 0.0, name="harbour")
        self.run = state.create_run("", "", "", {}, "", None, "", TaskType.SERVER_APP)
        (task,) = state.get_tasks(run_ids=[self.run])
        self.token = state.claim_task(task.task_id)
        state.activate_task(task.task_id)
        state.object_store.preregister(self.run, ObjectTree(object_id=OBJECT))
        state.object_store.put(OBJECT, CONTENT)
        self.long = 0

    async def flower(self, scope: Any, receive: Any, send: Any) -> None:
        """The long way, counted."""
        self.long += 1
        await self.app(scope, receive, send)

    def pull(self, side: str, *interceptors: Any, short: bool, run: int = 0) -> tuple[int, Any]:
        """Status and answer to a pull of the object, by one of the ways."""
        ways = {**fleet_ways(self.app), **runtime_ways(self.app)}
        app = Shortcut(self.flower, ways) if short else self.flower
        # A study's process speaks as Flower's own node.
        node = Node(node_id=self.node if side == "fleet" else SUPERLINK_NODE_ID)
        asked = PullObjectRequest(node=node, run_id=run or self.run, object_id=OBJECT)

        async def ask() -> httpx.Response:
            headers = {"content-type": "application/protobuf"}
            transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://link") as client:
                request = client.build_request(
                    "POST", f"/v1/{side}/pull-object", content=asked.SerializeToString()
                )
                request.headers.update(headers)
                for one in interceptors:
                    one.intercept(
                        ProtobufRequestContext("", asked, request), lambda _: httpx.Response(200)
                    )
                return await client.send(request)

        answer = asyncio.run(ask())
        if answer.status_code != 200:
            return answer.status_code, answer.json()
        return 200, PullObjectResponse.FromString(answer.content).object_content


@pytest.fixture(scope="module")
def link() -> Link:
    """One for all tests of this module."""
    return Link()


VERSION = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")


def test_a_site_gets_an_object_by_its_signature(link: Link) -> None:
    """By the short way, and Flower's layers see nothing of it."""
    signed = NodeAuthHttpInterceptor(link.key, link.key.public_key())
    before = link.long
    assert link.pull("fleet", signed, short=True) == (200, CONTENT)
    assert link.long == before
    assert link.pull("fleet", signed, short=False) == (200, CONTENT)


def test_a_study_gets_an_object_by_its_token(link: Link) -> None:
    """Likewise."""
    shown = RuntimeTokenHttpInterceptor(link.token)
    before = link.long
    assert link.pull("runtime", VERSION, shown, short=True) == (200, CONTENT)
    assert link.long == before
    assert link.pull("runtime", VERSION, shown, short=False) == (200, CONTENT)


@pytest.mark.parametrize("short", [True, False])
def test_the_short_way_lets_nobody_through(link: Link, short: bool) -> None:
    """No signature, another key, no token, a token of no task: refused by both ways, equally."""
    other = ec.generate_private_key(ec.SECP384R1())
    stranger = NodeAuthHttpInterceptor(other, other.public_key())
    # Another site's key in the header, and a signature that is not that key's.
    thief = NodeAuthHttpInterceptor(other, link.key.public_key())
    refused = [
        link.pull("fleet", short=short),
        link.pull("fleet", stranger, short=short),
        link.pull("fleet", thief, short=short),
        link.pull("runtime", VERSION, short=short),
        link.pull("runtime", VERSION, RuntimeTokenHttpInterceptor("00"), short=short),
        link.pull("runtime", NodeAuthHttpInterceptor(link.key, link.key.public_key()), short=short),
    ]
    assert [status for status, _ in refused] == [401] * len(refused)


def test_a_request_that_flower_refuses_is_refused_in_its_words(link: Link) -> None:
    """A run that nobody knows: status and text are Flower's own."""
    signed = NodeAuthHttpInterceptor(link.key, link.key.public_key())
    assert link.pull("fleet", signed, short=True, run=1) == link.pull(
        "fleet", signed, short=False, run=1
    )
