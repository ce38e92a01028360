"""A consortium is founded, three hospitals join it, and one tiny study runs over them."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from checks import Checks
from net import PROXY, SERVER
from places import Machine, Place, enrol

from stillroom.common.study import Study
from stillroom.deploy.hospitals import label_rules
from stillroom.deploy.phantom.consortium import Site, SiteSpec, make_consortium

TOML = ["--config", "/consortium/server.toml"]
SITE = ["--config", "/stillroom/site.toml"]
ROUNDS = 50
"""So many that the study goes on while containers are asked, upgraded and restored."""
DUE = {"teach": 2, "label": 1, "student": ROUNDS}
"""Rounds of each stage."""
STUDY: dict[str, Any] = {
    "study": {
        "name": "field",
        "quorum": {"min_sites": 3, "deadline_s": 300},
        "validation_fraction": 0.5,
    },
    "volume": {"spacing_mm": [8.0, 8.0, 8.0], "patch": [32, 32, 32]},
    "label": {"vessels": {"kind": "mask", "classes": ["AO", "PA"]}},
    "model": {
        "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
        "student": {"arch": "light-swin", "feature_size": 12},
    },
    "stage": [
        {
            "name": "teach",
            "recipe": "teach",
            "label": "vessels",
            "rounds": 2,
            "train": {"steps": 1, "batch_size": 1},
        },
        {"name": "label", "recipe": "pseudolabel", "teachers": ["teach"]},
        {
            "name": "student",
            "recipe": "distil",
            "rounds": ROUNDS,
            "train": {"steps": 1, "batch_size": 1},
            "exchange": {"encoding": "int8-delta"},
        },
    ],
}
SPECS = [
    SiteSpec("north", "north", {"vessels": "nifti"}, labelled=2, unlabelled=1),
    SiteSpec("river", "river", {"vessels": "seg"}, labelled=2, unlabelled=1),
    SiteSpec("harbour", "harbour", {"vessels": "nrrd"}, labelled=2, unlabelled=1),
]


def patients(scratch: Path, specs: Sequence[SiteSpec] = SPECS) -> dict[str, Site]:
    """Phantom patients of three hospitals, as DICOM and label files."""
    made = make_consortium(scratch / "scans", sites=list(specs), workers=1)
    for path in (scratch / "scans").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return {site.name: site for site in made}


def workstation(operator: Machine, *arguments: str) -> str:
    """A command of the operator's on a machine with torch, which is this one."""
    operator.typed.add("stillroom-server", *arguments)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stillroom.server.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"stillroom-server {arguments[0]}: {done.stderr[-800:]}")
    return done.stdout


def found(operator: Machine, scratch: Path, description: dict[str, Any] = STUDY) -> Path:
    """Found the consortium, start its server, prepare and sign the study; returns the study."""
    operator.make_folder()
    operator.once("serve", "init", "--dir", "/consortium", "--name", "Field", "--host", SERVER)
    operator.up("serve", "execute")
    file = scratch / "study.toml"
    file.write_text(tomli_w.dumps(description), "utf-8")
    study = scratch / "study"
    workstation(operator, "study", "prepare", str(file), "--out", str(study))
    key = scratch / "operator.key"
    shutil.move(operator.folder / "operator.key", key)  # belongs off the server
    workstation(operator, "study", "sign", str(study), "--key", str(key))
    shutil.copytree(study, operator.folder / "study")
    operator.typed.add("cp", "-r", "study", str(operator.folder / "study"))
    wait(lambda: "alive" in operator.ask("serve", "stillroom-server", "health", *TOML, typed=False))
    return study


def join(
    hospital: Machine,
    operator: Machine,
    study: Path,
    site: Site,
    proxy: str | None,
    prepare: Callable[[Any], None] | None = None,
) -> str:
    """From an empty host to two running containers; returns what enrolment showed."""
    hospital.typed.add("docker", "load", "-i", "image.tar")
    hospital.make_folder("courier", "exchange", "pull", "state", "study")
    if proxy is not None:
        hospital.settings["HTTPS_PROXY"] = proxy
    shown = enrol(hospital, operator)
    # What a person does by hand: the study that came goes in, and site.toml says where labels are.
    shutil.copytree(study, hospital.folder / "study", dirs_exist_ok=True)
    with (hospital.folder / "site.toml").open("a", encoding="utf-8") as stream:
        rules = label_rules(site, Study.parse(STUDY))
        stream.write("\n" + tomli_w.dumps({"labels": rules}))
    text = (hospital.folder / "site.toml").read_text("utf-8")
    (hospital.folder / "site.toml").write_text(
        text.replace('device = "auto"', 'device = "auto"\nthreads = 1\n#'), "utf-8"
    )
    if prepare is not None:
        prepare(hospital)
    hospital.once("courier", "consent", "give", *SITE, "--days", "2", "--yes")
    hospital.up("courier", "runner")
    return shown


def begin(operator: Machine) -> None:
    """Start the run."""
    folders = ["/consortium/study", "--out", "/consortium/run"]
    operator.ask("serve", "stillroom-server", "run", "start", *TOML, *folders)


def run_folder(operator: Machine) -> Path:
    """Where the run's records are."""
    return operator.folder / "run"


def events(operator: Machine) -> list[dict[str, Any]]:
    """Everything the run has recorded so far."""
    path = run_folder(operator) / "events.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def rounds_done(operator: Machine) -> int:
    """Rounds that were committed."""
    return sum(event["event"] == "round.closed" for event in events(operator))


def wait(ready: Callable[[], object], seconds: float = 600.0) -> bool:
    """Until ``ready``; False when it takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return True
        time.sleep(0.25)
    return False


def result(operator: Machine) -> dict[str, Any] | None:
    """How the run ended; None while it goes on."""
    path = run_folder(operator) / "result.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def release(operator: Place, study: Path, scratch: Path, checks: Checks) -> None:
    """The released student, built where there is torch."""
    out = scratch / "release"
    workstation(
        operator, "release", "build", str(study), str(run_folder(operator)), "--out", str(out)
    )
    names = sorted(path.name for path in out.iterdir())
    checks.hold("the study's release is built", bool(names), detail=", ".join(names[:6]))


def ledgers(hospitals: list[Place], checks: Checks) -> None:
    """Every hospital's own record holds, and agrees with the consortium's log."""
    for hospital in hospitals:
        said = hospital.ask("courier", "stillroom-client", "ledger", "verify", *SITE)
        checks.hold(
            f"{hospital.name}: the ledger holds", "error" not in said, detail=said.splitlines()[-1]
        )
        said = hospital.ask("courier", "stillroom-client", "ledger", "receipts", *SITE)
        checks.hold(
            f"{hospital.name}: receipts of the consortium's log cover what left",
            "error" not in said,
            detail=said.splitlines()[-1],
        )


def proxy_address(user: str, password: str) -> str:
    """As it stands in HTTPS_PROXY."""
    return f"http://{user}:{password}@{PROXY}:8888"
