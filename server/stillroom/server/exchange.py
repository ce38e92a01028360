"""The way to the sites over Flower's Grid: tasks out, answers in, whatever happens in between.

Flower's own ``send_and_receive`` keeps every reply in memory and sleeps 3 s between looks, and
``sample_nodes`` waits for ever; neither is used. What can go wrong between a task and its answer has
one remedy, to ask again: a site answers the same question from what it kept. A question is put again

- when the site's courier has started since (``starts``): the task may have died with it;
- when Flower says that the message or its reply is lost, or a look for replies failed half-way:
  what a look has taken is marked as delivered, and is not given twice;
- after a minute without news, then two, then four: for what is lost without a trace.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import httpx
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.run import RunNotRunningException

from stillroom.common.errors import StillroomError
from stillroom.common.lifetime import patience
from stillroom.common.messages import MESSAGE_TYPES, SITE_FAILED, pack_task, read_reply
from stillroom.server.arrivals import UNREADABLE
from stillroom.server.asking import Awaited, Call
from stillroom.server.endings import Paused
from stillroom.server.rounds.deadline import ask_again_s
from stillroom.server.rounds.outcome import Answer
from stillroom.server.starts import last_start
from stillroom.server.store.journal import Journal

log = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_LOOK_S = 0.02
"""Pause after the first look for replies; grows with the wait (``lifetime.patience``)."""
LISTEN_S = 0.25
"""The same where a bell tells of replies: what is looked at then is mostly the time."""
AGAIN_S = 0.5
"""Pause before asking a SuperLink again that does not answer."""
AWAY_S = 600.0
"""A SuperLink that does not answer for so long ends this process; a later one goes on."""
NODES_S = 2.0
"""How old a list of connected sites may be while somebody is missing from it."""
TTL_S = 7 * 24 * 3600.0
"""Life of a message. Rounds end by our own rules and a clock that jumps must not end one."""
MOST_LATE = 1000
"""Calls whose late answers are still looked for."""


@dataclass(slots=True, eq=False)
class _Question:
    """One call on its way.

    Attributes:
        call: What is asked.
        ids: Flower's names of the messages that ask it.
        times: How often it was put.
        again_at: When it is put again, by the steady clock.
        start: The site's last start when it was put.
        alone: Looked for by itself: what this site sends has spoilt a look for several.
        quiet_until: Not looked for before; Flower has just said that the site is away.
    """

    call: Call
    ids: list[str] = field(default_factory=list)
    times: int = 0
    again_at: float = 0.0
    start: str = ""
    alone: bool = False
    quiet_until: float = 0.0


class GridExchange:
    """``asking.Exchange`` on Flower's Grid.

    Args:
        grid: Flower's.
        journal: Told when a site is asked again.
        poll_s: Longest pause between two looks.
        starts: Folder of ``starts``; None where couriers do not start by themselves.
        heed: Called while the SuperLink is away; may raise to stop.
        pause: Waits so many seconds, or until a reply was pushed; None where nothing tells of that.
    """

    def __init__(
        self,
        grid: Grid,
        journal: Journal,
        *,
        poll_s: float,
        starts: Path | None = None,
        heed: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self._pause = pause or time.sleep
        self._first_s = FIRST_LOOK_S if pause is None else LISTEN_S
        self._grid, self._journal, self._poll_s = grid, journal, poll_s
        self._starts, self._heed = starts, heed
        self._nodes: dict[str, int] = {}
        self._nodes_at = float("-inf")
        self._late: list[_Question] = []
        self._turn = 0
        self._spoilers: set[str] = set()

    def sites(self) -> tuple[str, ...]:
        """Connected sites by the name they were registered with, sorted."""
        nodes = self._insist(lambda: list(self._grid.get_nodes()))
        self._nodes = {node.name: node.node_id for node in nodes}
        self._nodes_at = time.monotonic()
        return tuple(sorted(self._nodes))

    def wait_for(self, expected: set[str], *, timeout_s: float) -> set[str]:
        """Wait until every expected site is connected; returns those that are not."""
        end = time.monotonic() + timeout_s
        missing = expected - set(self.sites())
        self._journal.event("study.waiting", missing=sorted(missing))
        while missing and time.monotonic() < end:
            self._heed()
            time.sleep(0.2)
            missing = expected - set(self.sites())
        return missing

    def ask(self, calls: Sequence[Call], *, awaited: Awaited) -> Iterator[tuple[Call, Answer]]:
        """Send every call and yield answers as they come, until no call is awaited any more.

        One look for all that are outstanding; a site that is not connected is asked when it is.
        Answers to calls of earlier rounds come too: the caller knows which are its own.
        """
        self._turn += 1
        opened = news = time.monotonic()
        waiting = [_Question(call, alone=call.site in self._spoilers) for call in calls]
        while keys := awaited():
            self._put([one for one in waiting if one.call.key in keys])
            found = self._look([*waiting, *self._late])
            for one, answer in found:
                (waiting if one in waiting else self._late).remove(one)
                yield one.call, Answer(answer.reply, answer.code, time.monotonic() - opened)
            if found:
                news = time.monotonic()
            else:
                self._pause(min(self._poll_s, patience(time.monotonic() - news, self._first_s)))
        self._late = [*self._late, *(one for one in waiting if one.ids)][-MOST_LATE:]

    # -- out --------------------------------------------------------------------------------------

    def _put(self, questions: Sequence[_Question]) -> None:
        """Put those that were never put, and those whose time has come, to sites that are here."""
        now = time.monotonic()
        due = [(one, why) for one in questions if (why := self._why(one, now)) is not None]
        if any(one.call.site not in self._nodes for one, _ in due):
            if now - self._nodes_at < NODES_S and self._nodes:
                due = [(one, why) for one, why in due if one.call.site in self._nodes]
            else:
                self.sites()
        here = [(one, why) for one, why in due if one.call.site in self._nodes]
        if not here:
            return
        packed = {id(task): pack_task(task) for task in (one.call.task for one, _ in here)}
        messages = []
        for one, _ in here:
            # Before it is put: a start in between is noticed, at worst for nothing.
            one.start = self._start_of(one.call.site)
            messages.append(
                Message(
                    packed[id(one.call.task)],
                    self._nodes[one.call.site],
                    MESSAGE_TYPES[one.call.kind],
                    # What of an earlier asking still waits for its site is overtaken (``nodes``).
                    group_id=str(self._turn),
                    ttl=TTL_S,
                )
            )
        for (one, why), name in zip_longest(here, self._push(messages)):
            one.times += 1
            one.again_at = time.monotonic() + ask_again_s(one.times)
            if name is not None:
                one.ids.append(name)
            elif not one.ids:
                self._lost(one, AGAIN_S * 2 ** min(one.times, 7))
            if why:
                self._tell(one.call, why)

    def _push(self, messages: list[Message]) -> list[str | None]:
        """Flower's names of messages that were put; None for one that was not.

        A site may say that it has a message before all of it is there, and Flower then forgets the
        message under our hands. The others are put without it, and the site is asked again later.
        """
        try:
            return list(self._insist(lambda: list(self._grid.push_messages(messages))))
        except ObjectPushError:
            log.warning("exchange.message_taken_too_soon")
            if len(messages) == 1:
                return [None]
            return [name for message in messages for name in self._push([message])]

    def _tell(self, call: Call, why: str) -> None:
        self._journal.event(
            "site.asked_again",
            stage=call.task.stage,
            round=call.task.round,
            site=call.site,
            reason=why,
        )

    def _why(self, one: _Question, now: float) -> str | None:
        """Why a question is to be put now: empty for the first time; None when it is not."""
        if one.times == 0:
            return ""
        if self._start_of(one.call.site) != one.start:
            return "its courier has started again"
        if now >= one.again_at:
            return "nothing was heard" if one.ids else "the message or its answer was lost"
        return None

    def _start_of(self, site: str) -> str:
        return "" if self._starts is None else last_start(self._starts, site)

    # -- in ---------------------------------------------------------------------------------------

    def _look(self, questions: Sequence[_Question]) -> list[tuple[_Question, Answer]]:
        """One look for replies; each question is answered at most once."""
        now = time.monotonic()
        ready = [one for one in questions if one.ids and now >= one.quiet_until]
        together = [one for one in ready if not one.alone]
        groups = [[one] for one in ready if one.alone] + ([together] if together else [])
        return [found for group in groups for found in self._look_for(group)]

    def _look_for(self, group: list[_Question]) -> list[tuple[_Question, Answer]]:
        of = {name: one for one in group for name in one.ids}
        try:
            messages = list(self._grid.pull_messages(list(of)))
        except UNREADABLE:
            # A site's message that Flower cannot even decode is that site's affair. Which site's,
            # is known when each is looked for by itself.
            log.exception("server.undecodable_reply")
            if len(group) == 1:
                self._spoilers.add(group[0].call.site)
                return [(group[0], Answer(None, "STR-300", 0.0))]
            for one in group:
                one.alone = True
                self._lost(one, 0.0)
            return []
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            _require_away(error)
            # What this look had taken is delivered, as far as Flower knows.
            self.sites()
            for one in group:
                self._lost(one, 0.0)
            return []
        except RunNotRunningException as error:
            raise Paused("Flower has stopped this run") from error
        answers: dict[int, tuple[_Question, Answer]] = {}
        for message in messages:
            name = message.metadata.reply_to_message_id
            asked = of.get(name)
            if asked is None:
                continue
            if message.has_error() and message.error.code == ErrorCode.NODE_UNAVAILABLE:
                # Not an answer: it may come back, and then it answers.
                asked.quiet_until = time.monotonic() + NODES_S
            elif message.has_error() and message.error.code != SITE_FAILED:
                asked.ids.remove(name)
                if not asked.ids:
                    self._lost(asked, AGAIN_S * 2 ** min(asked.times, 7))
            else:
                answers[id(asked)] = asked, _answer(message)
        return list(answers.values())

    def _lost(self, one: _Question, pause_s: float) -> None:
        """Put it again after a pause."""
        one.ids.clear()
        one.again_at = time.monotonic() + pause_s

    def _insist(self, call: Callable[[], T]) -> T:
        """The answer of a SuperLink that may be away for a while.

        Raises:
            Paused: It has not come back, or the run was stopped there.
        """
        end = time.monotonic() + AWAY_S
        while True:
            try:
                return call()
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                _require_away(error)
                if time.monotonic() >= end:
                    raise Paused("the server has not answered for ten minutes") from error
            except RunNotRunningException as error:
                raise Paused("Flower has stopped this run") from error
            self._heed()
            time.sleep(AGAIN_S)


def _require_away(error: httpx.HTTPError) -> None:
    """Let through what a server says that is not well; most else is a defect of ours.

    Raises:
        Paused: The SuperLink has started anew and knows this process no longer; another one goes
            on from the run's folder, and for that this one has to be gone.
    """
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise Paused("the server has started anew") from error
        raise error


def _answer(message: Message) -> Answer:
    try:
        return Answer(read_reply(message), None, 0.0)
    except StillroomError as error:
        return Answer(None, error.code, 0.0)
