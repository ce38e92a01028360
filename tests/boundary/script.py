"""Who tries what in a live boundary run: the same attempts as in process, one a question.

Used in three places: by the runner of an evil site (behind a real courier), by a hostile client
(which has a site's certificate and no courier), and by the server's own process for what comes from
there. ``Script`` keeps count of which attempt is next.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import attempts
from flwr.app import Error, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from live_hooks import Given, note

from stillroom.client.exchange import ExchangeFolder
from stillroom.common.messages import (
    INVENTORY,
    LABEL,
    MESSAGE_TYPES,
    ROUND,
    STAGE,
    Reply,
    Task,
    pack_reply,
    pack_task,
    read_task,
)
from stillroom.common.study import PreparedStudy

KINDS = {message_type: kind for kind, message_type in MESSAGE_TYPES.items()}
DELTA = "delta"
"""Attempts that belong into a round whose updates are changes of a model: the teacher's."""
IDLE = "STR-401"
"""What an evil site says when there is nothing left to try: a code, as any failure."""
REFUSAL = "a site that says it failed"
"""The measure of all others: nothing is tried, a code is the answer."""
HONEST = "an honest update"
"""What a site without a script gives, and what all counting has to find."""
WITHDRAWN = ("task without consent", "update without consent")
NUMBERS = {
    INVENTORY: {"inventory.cases": 4, "inventory.vessels.cases": 4},
    LABEL: {"pseudo.vessels.written": 4},
    STAGE: {"eval.cases": 4, "eval.vessels.vessel.cases": 4, "eval.vessels.vessel.dice": 0.5},
}


def cases(study: Path) -> dict[str, Any]:
    """Every attempt by name, made for the study of this consortium."""
    attempts.PREPARED = PreparedStudy.load(study)
    import smuggling

    return {case.name: case for case in smuggling.CASES}


def kind_of(case: Any) -> str:
    """Which question an attempt answers."""
    plain = case.prepared.study.stage_named("student").exchange.encoding == "fp32"
    return str(case.kind) if plain else DELTA


@dataclass
class Parcel:
    """One message as its objects, perhaps forged."""

    message: Message
    forge: Callable[[str, bytes], bytes] | None = None
    objects: attempts.Objects = field(init=False)
    root: str = field(init=False)

    def __post_init__(self) -> None:
        """Take it apart."""
        run_id = self.message.metadata.run_id
        self.objects = attempts.deflated(self.message)
        if self.forge is not None:
            self.objects = attempts.forged(self.objects, self.forge)
        self.root = list(self.objects)[-1]
        self.message.metadata.__dict__["_message_id"] = self.root
        self.run_id = run_id

    def bare(self, run_id: int) -> Any:
        """The message without content; on its outside it belongs to the run it is pushed in."""
        proto = message_to_proto(remove_content_from_message(self.message))
        proto.metadata.run_id = run_id
        return proto

    def push(self, client: Any, context: Any) -> None:
        """To the courier, over Flower's Runtime API."""
        tree = attempts.tree_of(self.objects, self.root)
        said = client.PushMessages(
            PushAppMessagesRequest(
                messages_list=[self.bare(context.run_id)], message_object_trees=[tree]
            )
        )
        for name in said.objects_to_push:
            client.PushObject(
                PushObjectRequest(
                    node=Node(node_id=context.node_id),
                    run_id=context.run_id,
                    object_id=name,
                    object_content=self.objects[name],
                    session_id=said.session_id,
                )
            )


class Script:
    """The next attempt of a site, or of the server (``site`` is empty then)."""

    def __init__(self, site: str, given: Given) -> None:
        self.site, self.given = site, given
        self.cases = cases(Path(given["study"]))
        mine = given["replies"].get(site)
        self.waiting = None if mine is None else {kind: list(names) for kind, names in mine.items()}
        self.seen: dict[tuple[Any, ...], str] = {}

    # -- a site ------------------------------------------------------------------------------------

    def answer(self, message: Message, task: Task | None = None) -> Sequence[Parcel]:
        """What this site answers; more than one message where the attempt is one too many."""
        task = task or read_task(message)
        kind = KINDS[message.metadata.message_type]
        name = self._next(message, kind, task)
        self._clear()
        attempts.DESK.written = {}
        if task.stage in task.models:
            attempts.DESK.base = task.models[task.stage].sha256
        if name in {"", REFUSAL, HONEST}:
            # Until ``armed`` nobody says what it has: a study without sites ends by itself.
            armed = (Path(self.given["out"]) / "armed").exists()
            good = armed if kind == INVENTORY else name == HONEST
            return [Parcel(self._honest(kind, message) if good else _failed(message))]
        case = self.cases[name]
        if name in WITHDRAWN:
            self.withdraw(self.site)
        said = [Parcel((case.reply or attempts.honest)(message), case.forge)]
        # Nobody asked for the first; somebody still waits for the second.
        return [*said, Parcel(_failed(message))] if case.stray else said

    def _next(self, message: Message, kind: str, task: Task) -> str:
        """The name of the attempt; empty when none is left."""
        metadata = message.metadata
        key = (metadata.run_id, kind, task.stage, task.round)
        if self.waiting is None:
            self.seen[key] = HONEST
        elif key not in self.seen:
            queue = DELTA if (kind, task.stage) == (ROUND, "teach-a") else kind
            names = self.waiting.get(queue, [])
            self.seen[key] = names.pop(0) if names else ""
        name = self.seen[key]
        told = {"kind": kind, "stage": task.stage, "round": task.round, "t": time.time()}
        note(
            self.given,
            "cases.jsonl",
            **told,
            site=self.site,
            run=str(metadata.run_id),
            message=metadata.message_id,
            case=name,
            src="site",
        )
        return name

    def _clear(self) -> None:
        """What an attempt has left in the folder that runner and courier share."""
        folder = self._exchange().updates
        elsewhere = folder.parent / "elsewhere"
        if folder.is_symlink():
            folder.unlink()
            elsewhere.rename(folder)
        elsewhere.unlink(missing_ok=True)
        for path in folder.iterdir():
            path.unlink()
        attempts.DESK.exchange = self._exchange()

    def _exchange(self) -> ExchangeFolder:
        from stillroom.client.config import SiteConfig

        config = SiteConfig.load(Path(self.given["sites"]) / self.site / "site.toml")
        return ExchangeFolder(config.exchange).prepare()

    def _honest(self, kind: str, message: Message) -> Message:
        if kind == ROUND:
            return attempts.honest(message)
        return Message(pack_reply(Reply(metrics=NUMBERS[kind])), reply_to=message)

    # -- the server --------------------------------------------------------------------------------

    def grid(self, grid: Any, sites: Callable[[], dict[int, str]]) -> "Grid":
        """Flower's grid, through which some questions go out changed."""
        return Grid(grid, sites, self)

    def changed(self, message: Message, site: str) -> tuple[Message, str]:
        """The question that goes out, and the attempt it is; empty for none."""
        damaged = Path(self.given["out"]) / "damaged" / str(message.metadata.dst_node_id)
        damaged.unlink(missing_ok=True)
        task = read_task(message)
        name = ""
        if KINDS[message.metadata.message_type] == ROUND and task.stage == "student":
            name = self.given["requests"].get(site, {}).get(str(task.round), "")
        if not name:
            return message, ""
        case = self.cases[name]
        attempts.DESK.asked = task
        if name in WITHDRAWN:
            self.withdraw(site)
        if case.damage is not None:
            damaged.touch()
        # Made anew: the content at hand is that of the questions to all other sites as well.
        content = pack_task(task) if case.content is None else case.content()
        if case.served is not None:
            content = self._serve(case, content)
        metadata = message.metadata
        return Message(
            content,
            metadata.dst_node_id,
            case.message_type or metadata.message_type,
            group_id=metadata.group_id,
            ttl=metadata.ttl,
        ), name

    def _serve(self, case: Any, content: Any) -> Any:
        """Offer the attempt's file, under the name by which its question speaks of it."""
        good = attempts.GOOD_FILE
        model = content["model.student"]
        data = case.served(good)
        if case.content is None:
            # A name of its own: the others must find the file they are asked to fetch.
            name = attempts.digest(good[::-1] + b"!")
            model["sha256"], model["bytes"] = name, len(data)
        folder = Path(self.given["depot"]) / "out" / "attempts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(model["sha256"])).write_bytes(data)
        return content

    def withdraw(self, site: str) -> None:
        """The hospital leaves the study, by its own command."""
        config = Path(self.given["sites"]) / site / "site.toml"
        command = ["-m", "stillroom.client.cli", "consent", "withdraw", "--yes", "-c", str(config)]
        subprocess.run([sys.executable, "-P", *command], check=True, capture_output=True)


@dataclass
class Grid:
    """Flower's grid; what it does not have here, it has there."""

    inner: Any
    sites: Callable[[], dict[int, str]]
    script: Script

    def __getattr__(self, name: str) -> Any:
        """Anything else."""
        return getattr(self.inner, name)

    def push_messages(self, messages: Any) -> list[Any]:
        """Put questions, some of them changed."""
        given = self.script.given
        names, out, sites = list[str](), list[Message](), self.sites()
        for message in messages:
            site = sites.get(message.metadata.dst_node_id, "")
            made, name = self.script.changed(message, site)
            out.append(made)
            names.append(name)
        ids = list(self.inner.push_messages(out))
        for message, name, message_id in zip(messages, names, ids, strict=False):
            if name:
                task = read_task(message)
                note(
                    given,
                    "cases.jsonl",
                    t=time.time(),
                    kind=ROUND,
                    stage=task.stage,
                    round=task.round,
                    site=sites[message.metadata.dst_node_id],
                    run="",
                    message=message_id or "",
                    case=name,
                    src="server",
                )
        return ids


def _failed(message: Message) -> Message:
    return Message(Error(1, IDLE), reply_to=message)
