"""Whole runs whose every round is made again by ``stillroom-audit replay``, without torch.

The auditor's folder holds the log and what the run kept, copied; nothing else of the run. The
command is the real one, in a process in which torch, MONAI and the readers of scans cannot be imported.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
import trial

from stillroom.server.store.journal import read_events

HERE = Path(__file__).parent
TINY = HERE.parent / "federation" / "tiny.toml"
WITHOUT = ("torch", "monai", "SimpleITK", "pydicom")
COMMAND = f"""
import sys
sys.modules.update(dict.fromkeys({WITHOUT!r}))
from stillroom.server.audit.cli import main
for folder in sys.argv[1:]:
    sys.argv = ["stillroom-audit", "replay", f"{{folder}}/log", "--run", f"{{folder}}/run"]
    try:
        main()
    except SystemExit as ended:
        print("status", ended.code, flush=True)
"""
"""Python imports nothing under these names, and the command's own entry point does the rest."""
VERDICT = re.compile(r"^replay (\d+)/(\d+) identical.*\nstatus (\d+)$", re.MULTILINE)
ENCODINGS = ("fp32", "bf16-delta", "int8-delta")
RULES: Mapping[str, Mapping[str, Any]] = {
    "mean": {},
    "mean, updates shortened": {"clip_norm": 30.0},
    "trimmed mean": {"method": "trimmed-mean"},
    "median, updates shortened": {"method": "median", "clip_norm": 30.0},
    "FedAdam": {"server": "fedadam"},
    "FedYogi": {"server": "fedyogi"},
    "FedAdam over a trimmed mean, updates shortened": {
        "server": "fedadam",
        "method": "trimmed-mean",
        "clip_norm": 30.0,
    },
}
AVERAGED: Mapping[str, Mapping[str, Any]] = {
    f"{name}, moving average": {**rules, "average": 0.9} for name, rules in RULES.items()
}
"""The same with a moving average of the models, which a stage with ``fp32`` may keep."""
REHEARSED: Sequence[tuple[str, bool, Mapping[str, Mapping[str, Any]]]] = (
    ("fp32", False, {"distil": {"average": 0.5}}),
    ("bf16-delta", True, {"teach": {"server": "fedyogi"}, "distil": {"server": "fedadam"}}),
    (
        "int8-delta",
        True,
        {"teach": {"method": "median"}, "distil": {"method": "trimmed-mean", "clip_norm": 0.5}},
    ),
)
"""Encoding, whether sites answer backwards, and the rules of the stages of a recipe."""


@dataclass(frozen=True)
class Made:
    """One run, made again.

    Attributes:
        what: Whose rounds.
        same: Rounds that came out identical.
        of: Rounds that the log says were committed with a model.
        note: What it showed besides.
    """

    what: str
    same: int
    of: int
    note: str = ""


def replayed(folders: Sequence[Path]) -> list[int]:
    """Rounds that ``stillroom-audit replay`` found identical in each auditor's folder.

    Raises:
        RuntimeError: It did not say so of every folder, or its exit status says something else.
    """
    command = [sys.executable, "-P", "-c", COMMAND, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    found = [(int(same), int(of), int(code)) for same, of, code in VERDICT.findall(done.stdout)]
    if len(found) != len(folders) or any((a == b) != (code == 0) for a, b, code in found):
        raise RuntimeError(f"{done.stdout}{done.stderr}")
    return [same for same, _, _ in found]


def hand_over(log: Path, run: Path, to: Path) -> Path:
    """What an auditor gets: the log and what was kept, and nothing else."""
    shutil.copytree(log, to / "log")
    shutil.copytree(run / "updates", to / "run" / "updates")
    return to


def trials(
    folder: Path,
    encodings: Sequence[str],
    rules: Mapping[str, Mapping[str, Any]],
    *,
    keep: str = "all",
) -> list[Made]:
    """Every encoding with every rule; sites that answer in either order make the same models."""
    found, handed = [], []
    for number, (encoding, name) in enumerate(itertools.product(encodings, rules)):
        models = []
        for backwards in (False, True):
            where = folder / f"{number}-{backwards:d}"
            one = trial.Trial(where, encoding, rules[name], backwards=backwards, keep=keep)
            one.start().run()
            models.append(_models(one.run))
        handed.append(hand_over(one.log.folder, one.run, folder / f"auditor-{number}"))
        agree = models[0] == models[1]
        note = "either order of answers" if agree else "**the order of answers shows**"
        kept = len(models[1]) if keep == "all" else 1
        note += "" if keep == "all" else "; only the last round was kept"
        found.append(Made(f"three sites, {encoding}, {name}", 0, kept, note))
    pairs = zip(found, replayed(handed), strict=True)
    return [replace(one, same=same) for one, same in pairs]


def rehearsals(folder: Path) -> list[Made]:
    """The tiny rehearsal in every encoding, and with every rule somewhere; side by side."""
    with ThreadPoolExecutor(len(REHEARSED)) as pool:
        return list(pool.map(lambda one: _rehearsed(folder, *one), REHEARSED))


def _rehearsed(
    folder: Path, encoding: str, backwards: bool, rules: Mapping[str, Mapping[str, Any]]
) -> Made:
    out = folder / encoding
    rehearse(out, encoding, rules, backwards=backwards)
    kept = _models(out / "run")
    handed = hand_over(
        out / "server" / "state" / "log", out / "run", folder / f"auditor-{encoding}"
    )
    note = ", ".join(dict.fromkeys(_words(rules.get(name, {})) for name in ("teach", "distil")))
    if backwards:
        note += f"; {_reversed_rounds(out / 'run')} rounds answered in the reverse order"
    return Made(f"whole rehearsal, {encoding}", replayed([handed])[0], len(kept), note)


def rehearse(
    out: Path, encoding: str, rules: Mapping[str, Mapping[str, Any]], *, backwards: bool
) -> None:
    """Run the tiny rehearsal in one process."""
    study = tomllib.loads(TINY.read_text("utf-8"))
    study["study"].update(retain_updates="all", quorum={"min_sites": 3, "deadline_s": 300})
    for stage in study["stage"]:
        if stage["recipe"] in {"teach", "distil"}:
            stage["exchange"] = {**stage.get("exchange", {}), "encoding": encoding}
            stage["aggregation"] = dict(rules.get(stage["recipe"], {}))
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_suffix(".toml")
    file.write_text(tomli_w.dumps(study), "utf-8")
    program = [str(HERE / "backwards.py")] if backwards else ["-m", "stillroom.deploy.cli"]
    sizes = ["--labelled", "3", "--unlabelled", "2", "--held-out", "2", "--in-process"]
    done = subprocess.run(
        [sys.executable, "-P", *program, "--out", str(out), "--study", str(file), *sizes],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])


def table(found: Sequence[Made]) -> list[str]:
    """Markdown: a row a run."""
    lines = ["| run | rounds kept | identical | |", "|---|---|---|---|"]
    return [*lines, *(f"| {one.what} | {one.of} | {one.same} | {one.note} |" for one in found)]


def _models(run: Path) -> dict[str, str]:
    """Every committed round and its model's digest, from the records."""
    found = {}
    for path in sorted(run.glob("round-*.json")):
        model = json.loads(path.read_text("utf-8")).get("model_sha256")
        if model:
            found[path.stem] = str(model)
    return found


def _reversed_rounds(run: Path) -> int:
    """Rounds of three sites in which the last by name was heard first."""
    heard: dict[tuple[str, int], list[str]] = {}
    for _, event in read_events(run):
        if event["event"] == "site.answered":
            heard.setdefault((event["stage"], event["round"]), []).append(event["site"])
    return sum(len(s) > 2 and s == sorted(s, reverse=True) for s in heard.values())


def _words(rules: Mapping[str, Any]) -> str:
    words = [str(rules[key]) for key in ("method", "server") if key in rules] or ["mean"]
    more = {"clip_norm": ", shortened", "average": ", moving average"}
    return " ".join(words) + "".join(said for key, said in more.items() if key in rules)
