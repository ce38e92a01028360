"""ServerApp: carries a study's tasks to the sites over Flower's Grid, and their answers back."""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from stillroom.common.errors import StillroomError
from stillroom.common.lifetime import patience
from stillroom.common.messages import MESSAGE_TYPES, SITE_FAILED, pack_task, read_reply
from stillroom.common.study import PreparedStudy
from stillroom.server.arrivals import UNREADABLE, bound_arrays, look_sooner
from stillroom.server.consents import RegistryConsents
from stillroom.server.rounds.outcome import Answer
from stillroom.server.store.journal import Journal
from stillroom.server.study_run import Call, StudyRun, require_student, vars_of

log = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study named in the run configuration.

    Keys: ``study`` (folder of the prepared study), ``run`` (folder for records and weights),
    ``sites`` (expected names, comma-separated), ``poll-s``, ``connect-s``, ``registry`` (its
    file; without one, consent is left to the sites alone).
    """
    settings = context.run_config
    study_dir, run_dir = Path(str(settings["study"])), Path(str(settings["run"]))
    journal = Journal(run_dir)
    exchange = GridExchange(grid, poll_s=float(settings["poll-s"]))
    expected = {name for name in str(settings["sites"]).split(",") if name}
    missing = exchange.wait_for(expected, timeout_s=float(settings["connect-s"]), journal=journal)
    try:
        prepared = PreparedStudy.load(study_dir)
        bound_arrays(prepared.study.study)
        look_sooner()
        require_student(prepared.study)
    except StillroomError as error:
        # Before there is a run to record; whoever follows the events must not wait for ever.
        journal.event("study.finished", status="failed", error=vars_of(error))
        raise
    registry = str(settings.get("registry", ""))
    run = StudyRun(prepared, study_dir / "weights", exchange, journal)
    if registry:
        run.consents = RegistryConsents(Path(registry), prepared.digest)
    run.notes += [f"{site} did not connect in time." for site in sorted(missing)]
    run.run()


class GridExchange:
    """``study_run.Exchange`` on Flower's Grid.

    Flower's own ``send_and_receive`` keeps every reply in memory and sleeps 3 s between looks,
    and ``sample_nodes`` waits for ever; neither is used.
    """

    def __init__(self, grid: Grid, *, poll_s: float) -> None:
        self._grid = grid
        self._poll_s = poll_s
        self._nodes: dict[str, int] = {}

    def sites(self) -> tuple[str, ...]:
        """Connected sites by the name they were registered with, sorted."""
        self._nodes = {node.name: node.node_id for node in self._grid.get_nodes()}
        return tuple(sorted(self._nodes))

    def wait_for(self, expected: set[str], *, timeout_s: float, journal: Journal) -> set[str]:
        """Wait until every expected site is connected; returns those that are not."""
        end = time.monotonic() + timeout_s
        missing = expected - set(self.sites())
        journal.event("study.waiting", missing=sorted(missing))
        while missing and time.monotonic() < end:
            time.sleep(self._poll_s)
            missing = expected - set(self.sites())
        return missing

    def ask(self, calls: Sequence[Call], *, deadline_s: float) -> Iterator[tuple[Call, Answer]]:
        """Send every call, then yield answers in the order of ``calls``.

        The next answer in that order is pulled only when the last one has been dealt with: the
        others wait on the server's disk, so memory does not grow with sites, and the order of
        summation does not depend on who was faster.
        """
        opened = time.monotonic()
        packed = {id(call.task): pack_task(call.task) for call in calls}
        waiting: list[tuple[Call, str | None]] = []
        for call in calls:
            node = self._nodes.get(call.site)
            if node is None:
                waiting.append((call, None))
                continue
            message = Message(
                packed[id(call.task)],
                node,
                MESSAGE_TYPES[call.kind],
                group_id=str(call.task.round),
                ttl=deadline_s + 60,
            )
            waiting.append((call, next(iter(self._grid.push_messages([message])), None)))
        del packed
        for call, message_id in waiting:
            yield call, self._await(message_id, opened, deadline_s)

    def _await(self, message_id: str | None, opened: float, deadline_s: float) -> Answer:
        """One answer, or none at the deadline. Every answer gets at least one look."""
        asked = time.monotonic()
        while message_id is not None:
            try:
                for message in self._grid.pull_messages([message_id]):
                    return _answer(message, time.monotonic() - opened)
            except UNREADABLE:
                # A site's message that Flower cannot even decode is that site's affair.
                log.exception("server.undecodable_reply")
                return Answer(None, "STR-300", time.monotonic() - opened)
            if time.monotonic() - opened > deadline_s:
                break
            time.sleep(patience(time.monotonic() - asked, self._poll_s))
        return Answer(None, None, time.monotonic() - opened)


def _answer(message: Message, seconds: float) -> Answer:
    if message.has_error() and message.error.code != SITE_FAILED:
        # Flower's own error: the node went away, or its reply was lost on the way.
        return Answer(None, None, seconds)
    try:
        return Answer(read_reply(message), None, seconds)
    except StillroomError as error:
        return Answer(None, error.code, seconds)
