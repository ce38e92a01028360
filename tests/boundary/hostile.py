"""Clients that hold a site's certificate and key, and have no courier and no gate.

They speak Flower's Fleet API and the upload of files straight to the edge, over mutual TLS, and send
what the script says, byte for byte. All of them live in one thread of the run that starts them.
"""

import threading
import time
from pathlib import Path
from typing import Any

import attempts
import httpx
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from live_hooks import Given, note
from script import Parcel, Script

from stillroom.client.agreement import Agreement
from stillroom.client.config import SiteConfig
from stillroom.client.consent_post import ConsentPost
from stillroom.client.consents import ConsentBook
from stillroom.client.courier import CourierSettings
from stillroom.client.fleet import Edge
from stillroom.client.papers import client_context
from stillroom.client.transfer import Transfer
from stillroom.common.errors import StillroomError
from stillroom.common.messages import task_of
from stillroom.common.parcel import open_parcel


class Client:
    """One of them."""

    def __init__(self, site: str, given: Given, stop: threading.Event) -> None:
        """Take the site's own papers and say yes to the study, as any site."""
        self.site, self.given, self.script = site, given, Script(site, given)
        config = SiteConfig.load(Path(given["sites"]) / site / "site.toml")
        settings = CourierSettings(
            server=config.server,
            ca=config.tls.ca,
            certificate=config.tls.certificate,
            private_key=config.tls.private_key,
            runtime_port=None,
            secret=b"",
            agreement=Agreement.open(config),
            state=config.courier_state,
            exchange=config.exchange,
            study=config.study,
        )

        def context() -> Any:
            return client_context(settings)

        self.transfer = Transfer(config.server, context, stop)
        self.edge = Edge(settings, stop, arrive=self.transfer.arrive)
        ConsentPost(ConsentBook.below(config.exchange), config.server, context).until(stop)
        self.edge.activate()
        self._beaten = time.monotonic()

    def turn(self) -> None:
        """One look for a question, and whatever answer the script has for it."""
        if time.monotonic() - self._beaten > HEARTBEAT_DEFAULT_INTERVAL / 3:
            self._beaten = time.monotonic()
            self.edge.heartbeat()
        pulled = self.edge.pull()
        if pulled is None:
            return
        message, tree = pulled
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        objects = pull_objects(
            [node.object_id for node in iterate_object_tree(tree)],
            pull_object_fn=lambda name: self.edge.pull_object(run_id, name),
            initial_backoff=0.05,
            backoff_cap=1.0,
        )
        task = task_of(open_parcel(message_id, objects.__getitem__).settings)
        self.edge.confirm(run_id, message_id)
        said = self.script.answer(message, task)
        for name, data in attempts.DESK.written.items():
            self._upload(name, data)
        for parcel in said:
            if not self._push(parcel, run_id):
                self._push(Parcel(self._plain(message)), run_id)

    def _upload(self, name: str, data: bytes) -> None:
        try:
            self.transfer.send(name, attempts.DESK.exchange.update(name), len(data))
        except StillroomError as error:
            note(self.given, "hostile.jsonl", site=self.site, what="upload", code=error.code)

    def _push(self, parcel: Parcel, run_id: int) -> bool:
        """Announce and upload a message; False where the server refuses the request itself."""
        client, node = self.edge._client, self.edge.node
        try:
            said = client.PushMessages(
                PushMessagesRequest(
                    node=node,
                    messages_list=[parcel.bare(run_id)],
                    message_object_trees=[attempts.tree_of(parcel.objects, parcel.root)],
                    clientapp_runtime_list=[1.0],
                )
            )
            push = make_push_object_fn_protobuf(client.PushObject, node, run_id, said.session_id)
            for name in said.objects_to_push:
                push(name, parcel.objects[name])
        except httpx.HTTPError as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            note(self.given, "hostile.jsonl", site=self.site, what="push", code=str(status))
            return False
        return True

    def _plain(self, message: Any) -> Any:
        from script import _failed

        return _failed(message)


def keep_trying(sites: list[str], given: Given, stop: threading.Event) -> None:
    """Every one of them in turn, until ``stop``."""
    clients = [Client(site, given, stop) for site in sites]
    while not stop.wait(0.1):
        for client in clients:
            try:
                client.turn()
            except Exception as error:  # noqa: BLE001  # what the server does to them is no defect
                note(given, "hostile.jsonl", site=client.site, what="turn", code=repr(error)[:200])
