"""ServerApp: runs the study that a run's configuration names, from where its folder says it is."""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from stillroom.common.errors import ResourceError, StillroomError
from stillroom.common.signed_study import read_signature
from stillroom.common.study import PreparedStudy
from stillroom.server.arrivals import look_sooner, patient, refuse_arrays
from stillroom.server.bells import Ear
from stillroom.server.chronicle import Chronicle
from stillroom.server.consents import RegistryConsents
from stillroom.server.depot import Depot
from stillroom.server.endings import Ended, Paused, ending
from stillroom.server.exchange import GridExchange
from stillroom.server.logbook import from_settings
from stillroom.server.store.folder import STATE, RunFolder, claimed
from stillroom.server.store.journal import Journal
from stillroom.server.store.runs import ENDED, RUNNING, Runs
from stillroom.server.study_run import StudyRun

log = logging.getLogger(__name__)

app = ServerApp()

LOCK_S = 10.0
"""How long a process waits for the one before it in the same folder to be gone."""
HEED_S = 0.5
"""How often the operator's wish is looked up."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study named in the run configuration.

    Keys: ``study`` (folder of the prepared study), ``run`` (folder for records and weights),
    ``sites`` (names to wait for, comma-separated), ``inner`` (the SuperLink's address), ``poll-s``,
    ``connect-s``, ``registry`` (its file; without
    one, consent is left to the sites alone), ``depot`` (folder of files on their way; below the
    run's without one), ``starts`` (folder of couriers' starts), ``runs`` (the table of runs) and
    ``name`` (of this run in it); without the last two, nobody is asked whether it is to go on;
    ``log`` and its companions (``logbook.KEYS``): the consortium's log, where it has one.

    Raises:
        StillroomError: Why the study ended; or why it cannot be run from here.
    """
    settings = {key: str(value) for key, value in context.run_config.items()}
    run_dir = Path(settings["run"])
    with contextlib.ExitStack() as stack:
        stack.enter_context(claimed(run_dir, wait_s=LOCK_S))
        ear = Ear(settings.get("inner", ""))
        stack.callback(ear.close)
        wish = stack.enter_context(Wish(settings.get("runs", ""), settings.get("name", "")))
        try:
            _run(grid, settings, wish, ear if settings.get("inner") else None)
        except Paused as pause:
            if pause.give_up:
                # Not written down on a full disk: then the keeper tries again, and gives up itself.
                with contextlib.suppress(ResourceError):
                    wish.give_up(pause.reason)
            log.warning("study.paused", extra={"note": pause.reason})


def _run(grid: Grid, settings: dict[str, str], wish: "Wish", ear: Ear | None) -> None:
    study_dir, run_dir = Path(settings["study"]), Path(settings["run"])
    refuse_arrays()
    look_sooner()
    patient(grid)
    journal = Journal(run_dir)
    journal.mend()
    starts = settings.get("starts", "")
    exchange = GridExchange(
        grid,
        journal,
        poll_s=float(settings["poll-s"]),
        starts=Path(starts) if starts else None,
        heed=wish,
        pause=ear.wait if ear else None,
    )
    try:
        prepared = PreparedStudy.load(study_dir)
        folder = RunFolder(run_dir, study_dir / "weights")
        missing = set[str]()
        if not (run_dir / STATE).exists():
            expected = {name for name in settings["sites"].split(",") if name}
            with contextlib.suppress(Ended):  # the study says so itself, at its first look
                missing = exchange.wait_for(expected, timeout_s=float(settings["connect-s"]))
        folder.load(prepared.digest)
    except StillroomError as error:
        # Before there is a run to record; whoever follows the events must not wait for ever.
        journal.event("study.finished", status="failed", error=ending(error))
        wish.give_up(str(error))
        raise
    run = StudyRun(
        prepared,
        folder,
        exchange,
        Depot(Path(settings.get("depot") or run_dir / "depot")),
        heed=wish,
        early_notes=tuple(f"{site} did not connect in time." for site in sorted(missing)),
    )
    run.chronicle = Chronicle(
        from_settings(settings), run_name(settings), read_signature(study_dir)
    )
    if settings.get("registry"):
        run.consents = RegistryConsents(Path(settings["registry"]), prepared.digest)
    run.run()


def run_name(settings: dict[str, str]) -> str:
    """The run's name in the log: the operator's, or its folder's."""
    return (settings.get("name") or Path(settings["run"]).name)[:64]


class Wish:
    """What the operator wants of this run, looked up again and again; a context manager.

    Args:
        runs: The table of runs; empty where there is none.
        name: Of this run in it.
    """

    def __init__(self, runs: str, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._runs = Runs(Path(runs)) if runs else None
        self._name, self._clock, self._looked = name, clock, float("-inf")

    def __call__(self) -> None:
        """Go on, or raise.

        Raises:
            Paused: It is to go on later.
            Ended: It is not to go on.
        """
        if self._runs is None or self._clock() - self._looked < HEED_S:
            return
        self._looked = self._clock()
        wanted = self._runs.get(self._name).wanted
        if wanted == ENDED:
            raise Ended
        if wanted != RUNNING:
            raise Paused("its operator has stopped it")

    def give_up(self, reason: str) -> None:
        """Have nobody start this run again until the operator says so."""
        if self._runs is not None:
            self._runs.give_up(self._name, time.time(), reason)

    def __enter__(self) -> "Wish":
        return self

    def __exit__(self, *_: object) -> None:
        if self._runs is not None:
            self._runs.close()
