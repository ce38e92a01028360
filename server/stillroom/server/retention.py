"""What a study keeps of its rounds, so that anybody can make their models again.

::

    RUN/updates/study.json                      the prepared study
    RUN/updates/<stage>/<NNNN>/base.safetensors the model the round started from
    RUN/updates/<stage>/<NNNN>/from.<site>      what each admitted site sent
    RUN/updates/<stage>/<NNNN>/<memory>         what the server carried over from the round before

Files are linked, not copied, where the file system can; they are put there before the round is committed, and
those of a round that never was are replaced when it is made again. What is kept holds no more than what
sites have sent; it is as worth protecting as the weights of the run.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from stillroom.common.study import PreparedStudy, Stage
from stillroom.common.tensorfile import write_durably
from stillroom.server.depot import Depot
from stillroom.server.rounds.memory import Memory
from stillroom.server.rounds.outcome import Outcome
from stillroom.server.rounds.state import RunState
from stillroom.server.store.folder import RunFolder
from stillroom.server.upload import sync_folder

FOLDER, STUDY, BASE, FROM = "updates", "study.json", "base.safetensors", "from."


def round_folder(run: Path, stage: str, number: int) -> Path:
    """Where a round's files are kept."""
    return run / FOLDER / stage / f"{number:04d}"


def keep_round(  # a round is all of these
    prepared: PreparedStudy,
    folder: RunFolder,
    depot: Depot,
    state: RunState,
    stage: Stage,
    outcomes: Mapping[str, Outcome],
) -> None:
    """Keep what it takes to make this round again, if the study says so; durable when it returns.

    Raises:
        OSError: The disk failed.
    """
    kept = prepared.study.study.retain_updates
    if kept == "none" or (kept == "last" and state.number < stage.rounds):
        return
    run = folder.journal.folder
    into = round_folder(run, stage.name, state.number)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    _keep(folder.model(state.models[stage.name].sha256), into / BASE)
    for path in Memory(folder.memory, stage.name, state.number).all_before():
        _keep(path, into / path.name)
    for site, outcome in outcomes.items():
        update = outcome.update
        sent = None if update is None else depot.received(site, update.sha256)
        if sent is not None:
            _keep(sent, into / f"{FROM}{site}")
    study = run / FOLDER / STUDY
    if not study.exists():
        write_durably(study, prepared.model_dump_json().encode("utf-8"))
    for made in (into, into.parent, run / FOLDER, run):
        sync_folder(made)


def _keep(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError:  # another file system, or one without links
        target.unlink(missing_ok=True)  # or one that linked and then said that it had not
        shutil.copyfile(path, target)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
