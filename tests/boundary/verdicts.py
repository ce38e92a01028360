"""What came of every attempt of a live boundary run, from what four witnesses wrote down.

The site's ledger, the server's journal, the edge (every request, after TLS) and the relay (every
byte, before TLS) are asked independently of each other.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import attempts
import script
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import PushObjectRequest

from stillroom.client.ledger import Line, read
from stillroom.common.errors import CODES
from stillroom.common.messages import INVENTORY, STAGE
from stillroom.common.parcel import split
from stillroom.server.store.journal import read_events

PER_REQUEST, PER_LINE, PER_WINDOW = 64, 4096, 2048
"""Bytes of TLS that a request, a new connection (its handshake with a P-384 certificate) and the
edges of a window of time may cost; more than these on the wire is something nobody can name."""


class Meter(Protocol):
    """The relay."""

    def sent(self, site: str, start: float, end: float) -> int:
        """Bytes from a site between two times."""
        ...

    def opened(self, site: str, start: float, end: float) -> int:
        """Connections of a site that began between two times."""
        ...


@dataclass
class Verdict:
    """What came of one attempt.

    Attributes:
        gate: The site's code; empty where no courier was tried.
        ledger: Kind and code of the ledger's refusal.
        payload: Bytes that left the site and are not a code, or the traffic around it.
        wire: All bytes that left the site meanwhile.
        server: The server's code for the same bytes from a hostile client; empty where not tried.
        told: The server's code for what the site answered.
        problems: What is not as it must be.
    """

    gate: str = ""
    ledger: str = ""
    payload: int = 0
    wire: int = 0
    server: str = ""
    told: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything is as it must be."""
        return not self.problems

    def __str__(self) -> str:
        """A line."""
        words = "; ".join(self.problems)
        return (
            f"site {self.gate or '-':8s} server {self.server or '-':8s} payload {self.payload} "
            f"of {self.wire} {words}"
        )


@dataclass
class Notes:
    """What was written down.

    Attributes:
        out: The run's folder.
        cases: Who was given which attempt, when, in which message.
        wire: Every request at the edge.
        answered: (stage, round, site) -> the journal's words.
        counted: One for each inventory: site -> the journal's words.
        result: Of the study.
        rounds: Records of the student's rounds.
    """

    out: Path
    cases: list[dict[str, Any]]
    wire: list[dict[str, Any]]
    answered: dict[tuple[str, int, str], dict[str, Any]]
    counted: list[dict[str, dict[str, Any]]]
    result: dict[str, Any]
    rounds: list[dict[str, Any]]

    @classmethod
    def read(cls, out: Path, runs: Iterable[str]) -> "Notes":
        """Everything below ``out``; ``runs`` are those that ended with their inventory."""
        events = [event for _, event in read_events(out / "run-study")]
        return cls(
            out=out,
            cases=_lines(out / "cases.jsonl"),
            wire=_lines(out / "wire.jsonl"),
            answered={
                (e["stage"], e["round"], e["site"]): e
                for e in events
                if e["event"] == "site.answered"
            },
            counted=[
                {
                    e["site"]: e
                    for _, e in read_events(out / f"run-{run}")
                    if e["event"] == "site.inventory"
                }
                for run in runs
            ],
            result=json.loads((out / "run-study" / "result.json").read_bytes()),
            rounds=[
                json.loads(path.read_bytes())
                for path in sorted((out / "run-study").glob("round-student-*.json"))
            ],
        )

    def ledger(self, site: str) -> list[Line]:
        """A site's own."""
        return list(read(next((self.out / "sites" / site).rglob("ledger.jsonl"))))

    def word(self, line: Mapping[str, Any], turn: int) -> str:
        """The server's code for what a site answered; ``admitted`` when it counts."""
        site, stage = line["site"], line["stage"]
        if line["kind"] == INVENTORY:
            event = self.counted[turn].get(site, {})
        elif line["kind"] == STAGE:
            notes = [n for n in self.result["notes"] if n.startswith(f"{stage}: {site} could not")]
            return notes[0].split(", ", 1)[1][:7] if notes else "admitted"
        else:
            event = self.answered.get((stage, line["round"], site), {})
        if event.get("status") == "admitted":
            return "admitted"
        return str(event.get("reason", "nothing"))[:7]


def judge(cases: Iterable[Any], who: Any, notes: Notes, meter: Meter) -> dict[str, Verdict]:
    """Verdict by attempt; one more for the study as a whole.

    Args:
        cases: What was to be tried.
        who: The cast.
        notes: What was written down.
        meter: Knows the bytes on the wire.
    """
    known = {case.name: case for case in cases}
    found = {name: Verdict() for name in known} | {script.REFUSAL: Verdict()}
    ledgers = {site: notes.ledger(site) for site in who.evil}
    for site in (*who.evil, *who.hostile):
        mine = sorted((c for c in notes.cases if c["site"] == site), key=lambda c: c["t"])
        seen, inventories = set[str](), -1
        for number, line in enumerate(mine):
            inventories += line["kind"] == INVENTORY
            name = line["case"]
            if name not in found or (name in seen and name != script.REFUSAL):
                continue
            seen.add(name)
            said = notes.word(line, inventories)
            if site in who.hostile:
                _arrived(found[name], known[name], said)
                continue
            until = mine[number + 1]["t"] if number + 1 < len(mine) else line["t"] + 30
            window = (line["t"], min(until, line["t"] + 30))
            codes = known[name].codes if name in known else (script.IDLE,)
            _left(found[name], notes, meter, site, window)
            _entered(found[name], line, ledgers[site], codes, said)
    for name, case in known.items():
        if not found[name].gate:
            found[name].problems.append("never tried at a site")
        if case.server and not found[name].server:
            found[name].problems.append("never tried at the server")
    found[script.HONEST] = _honest(who.honest[0], notes, meter)
    found["the study as a whole"] = _whole(who, notes)
    return found


def _honest(site: str, notes: Notes, meter: Meter) -> Verdict:
    """Whoever counts nothing of an attempt has to count all of an honest update."""
    verdict = Verdict()
    mine = sorted(c["t"] for c in notes.cases if (c["site"], c["stage"]) == (site, "student"))
    _left(verdict, notes, meter, site, (mine[0], mine[1]))
    size = len(attempts.GOOD_FILE)
    verdict.problems = [] if verdict.payload > size else ["the meter counts nothing"]
    if verdict.wire < size:
        verdict.problems.append("the relay counts nothing")
    return verdict


def _arrived(verdict: Verdict, case: Any, said: str) -> None:
    """A hostile client's update is refused for the right reason, and named."""
    verdict.server = said
    if said not in case.server:
        verdict.problems.append(f"the server said {said}, not {' or '.join(case.server)}")


def _entered(
    verdict: Verdict, line: Mapping[str, Any], ledger: list[Line], codes: Any, said: str
) -> None:
    """Ledger and server agree on why nothing came."""
    entries = [entry for entry in ledger if entry.request == line["message"]]
    refusals = [entry for entry in entries if entry.decision == "refused"]
    if line["case"] == script.REFUSAL:
        # It refused itself; the gate lets a registered code out.
        refusals = [entry for entry in entries if entry.code]
    verdict.told = said
    if not refusals:
        verdict.problems.append("not in the ledger")
        return
    entry = refusals[-1]
    verdict.gate, verdict.ledger = entry.code, f"{entry.kind}, {entry.code}"
    if entry.code not in codes:
        verdict.problems.append(f"the site said {entry.code}, not {' or '.join(codes)}")
    # What was held back for good is followed by an answer that says no more than a code.
    expected = script.IDLE if entry.kind == "withheld" else entry.code
    if said != expected:
        verdict.problems.append(f"the ledger says {expected}, the server {said}")
    if any(item.kind == "sent" and item.content for item in entries):
        verdict.problems.append("the ledger says that a file left")


def _left(
    verdict: Verdict, notes: Notes, meter: Meter, site: str, window: tuple[float, float]
) -> None:
    """Count what left a site in a window of time, at the edge and on the wire."""
    start, end = window
    mine = [one for one in notes.wire if one["site"] == site and start <= one["t"] < end]
    files = sum(one["body"] for one in mine if "/upload/" in one["path"])
    more = sum(extra(one) for one in mine)
    verdict.wire = meter.sent(site, start, end)
    plain = sum(one["head"] + one["body"] for one in mine)
    tls = PER_REQUEST * len(mine) + PER_LINE * meter.opened(site, start, end) + PER_WINDOW
    verdict.payload = files + more + max(0, verdict.wire - plain - tls)
    if verdict.payload:
        verdict.problems.append(f"{files} bytes of files, {more} of messages left")


def extra(request: Mapping[str, Any]) -> int:
    """Bytes of a pushed message, or of an object of it, that are no bare code; 0 of anything else."""
    data = base64.b64decode(request["kept"])
    if not data and not request["path"].endswith(("/push-messages", "/push-object")):
        return 0
    if request["path"].endswith("/push-messages"):
        pushed = PushMessagesRequest.FromString(data)
        trees = pushed.message_object_trees
        alone = len(trees) == 1 and not trees[0].children
        bare = alone and all(map(_is_bare, pushed.messages_list))
    else:
        kind, children, body = split(PushObjectRequest.FromString(data).object_content)
        bare = kind == "Message" and not any(children)
        bare = bare and _is_bare(ProtoMessage.FromString(bytes(body)))
    return 0 if bare and attempts.PATIENT.encode() not in data else int(request["body"])


def _is_bare(message: Any) -> bool:
    """Whether a message is a registered code, and has not a field more."""
    before = message.ByteSize()
    message.DiscardUnknownFields()
    whole = message.ByteSize() == before
    return whole and not message.HasField("content") and message.error.reason in CODES


def _whole(who: Any, notes: Notes) -> Verdict:
    """The others went on, and of what was tried nothing is in their model."""
    verdict = Verdict()
    if notes.result["status"] != "completed":
        verdict.problems.append(f"the study ended as {notes.result['status']}")
    if len(notes.rounds) != who.rounds:
        verdict.problems.append(f"{len(notes.rounds)} of {who.rounds} rounds")
    good = attempts.digest(attempts.GOOD_FILE)
    for record in notes.rounds:
        if record["order"] != who.honest or record["model_sha256"] != good:
            verdict.problems.append(f"round {record['round']} is of {record['order']}")
    named = attempts.PATIENT.encode()
    for path in (*(notes.out / "logs").iterdir(), *(notes.out / "run-study").glob("*.json*")):
        if path.name.endswith("-runner.log"):
            continue  # a site's own, and it never leaves
        if named in path.read_bytes():
            verdict.problems.append(f"a patient's name is in {path.name}")
    return verdict


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
