"""Faults inside the hospital: folders, disks, memory, GPU, data, study, consent, records."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from faults import fault
from place import CASES, Place, full, mounted, read_only, set_toml, study_of, system_with

from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook, give_consent, withdraw_consent
from stillroom.client.doctor.examination import Examination
from stillroom.client.ledger import Entry, Ledger
from stillroom.client.pausing import pause
from stillroom.common.pki.files import load_signing_key


@fault(
    "state: disk full",
    "a small tmpfs, filled",
    "state folder",
    "STR-503",
    "full",
    also=("state disk",),
)
def state_full(place: Place, config: Path) -> Iterator[None]:
    """Not a byte left."""
    with place.serving(), full(config.parent / "state"):
        yield


@fault(
    "courier_state: disk full",
    "a small tmpfs, filled",
    "courier folder",
    "STR-503",
    "full",
    also=("exchange disk",),
)
def courier_full(place: Place, config: Path) -> Iterator[None]:
    """Not a byte left for the ledger."""
    with place.serving(), full(config.parent / "courier"):
        yield


@fault("exchange: too small", "a tmpfs of 8 MiB", "exchange disk", "STR-503", "study needs",
       also=("consent",))  # fmt: skip
def exchange_small(place: Place, config: Path) -> Iterator[None]:
    """Room to write, and not for a round."""
    folder = config.parent / "exchange"
    with place.serving(), mounted(folder, "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs"):
        yield


@fault("work folder read-only", "a read-only mount", "state folder", "STR-110", "read-write")
def state_read_only(place: Place, config: Path) -> Iterator[None]:
    """As a container with one volume forgotten."""
    with place.serving(), read_only(config.parent / "state"):
        yield


@fault("exchange read-only", "a read-only mount", "exchange folder", "STR-110", "read-write")
def exchange_read_only(place: Place, config: Path) -> Iterator[None]:
    """The one folder that both see."""
    with place.serving(), read_only(config.parent / "exchange"):
        yield


@fault("no GPU where one is asked for", 'device = "cuda"', "GPU", "STR-111", "driver")
def no_gpu(place: Place, config: Path) -> Iterator[Examination]:
    """There is none."""
    set_toml(config, device="cuda")
    with place.serving(), _system(place) as system:
        yield Examination(config, system=system, patience_s=1.5)


@fault("GPU not passed in", "a driver, no device file", "GPU", "STR-111", "no GPU reaches")
def gpu_outside(place: Place, config: Path) -> Iterator[Examination]:
    """As a container without `--gpus`."""
    set_toml(config, device="cuda")
    with place.serving(), _system(place) as system:
        driver = system / "proc/driver/nvidia"
        driver.mkdir(parents=True)
        (driver / "version").write_text("NVRM version: NVIDIA UNIX Module  550.54.15  Tue\n")
        yield Examination(config, system=system, patience_s=1.5)


@fault("memory limit", "a cgroup's memory.max of 512 MiB", "memory", "STR-503", "limit")
def memory_limit(place: Place, config: Path) -> Iterator[Examination]:
    """Of the container, on a large machine."""
    with place.serving(), _system(place, limit=512 << 20) as system:
        yield Examination(config, system=system, patience_s=1.5)


@contextlib.contextmanager
def _system(place: Place, *, limit: int | None = None) -> Iterator[Path]:
    root = place.out / "system"
    try:
        yield system_with(root, limit=limit)
    finally:
        shutil.rmtree(root)


@fault("data folder empty", "no file", "scans", "STR-401", "empty")
def empty(place: Place, config: Path) -> Iterator[None]:
    """Nothing was exported, or nothing was mounted."""
    for path in (config.parent / "data").iterdir():
        path.unlink()
    with place.serving():
        yield


@fault("data folder missing", "not mounted", "data folders", "STR-112", "Mount it")
def missing(place: Place, config: Path) -> Iterator[None]:
    """As after a restart without the share."""
    shutil.rmtree(config.parent / "data")
    with place.serving():
        yield


@fault("no scan among the files", "text files only", "scans", "STR-401", "No CT series")
def no_scan(place: Place, config: Path) -> Iterator[None]:
    """Reports, and no images."""
    for path in (config.parent / "data").iterdir():
        path.write_text("a report")
    with place.serving():
        yield


def _keep_cases(config: Path, most: int, labelled: int) -> None:
    cases = SiteConfig.load(config).state / "studies" / study_of(config).digest[:16] / "cases"
    found = sorted(cases.iterdir())
    assert len(found) == CASES
    for number, folder in enumerate(found):
        if number >= most:
            shutil.rmtree(folder)
        elif number >= labelled:
            case = json.loads((folder / "case.json").read_text())
            (folder / "case.json").write_text(json.dumps(case | {"masks": []}))


@fault("too few cases", "two, where the study's floor is three", "cases", "STR-401", "fewer than 3")
def few(place: Place, config: Path) -> Iterator[None]:
    """In all."""
    _keep_cases(config, 2, 2)
    with place.serving():
        yield


@fault("too few of a label", "two labelled of four", "cases", "STR-401", "vessels", "fewer than 3")
def few_labels(place: Place, config: Path) -> Iterator[None]:
    """Of a type that a stage trains."""
    _keep_cases(config, CASES, 2)
    with place.serving():
        yield


@fault("no study", "the folder is empty", "study", "STR-204", "no study")
def no_study(place: Place, config: Path) -> Iterator[None]:
    """It was never copied."""
    (config.parent / "study").mkdir()
    set_toml(config, study="study")
    with place.serving():
        yield


def _own_study(place: Place, config: Path) -> Path:
    shutil.copytree(place.layout.study, config.parent / "study")
    set_toml(config, study="study")
    return config.parent / "study"


@fault("study changed", "one letter of study.json", "study", "STR-209", "another study")
def changed(place: Place, config: Path) -> Iterator[None]:
    """After it was signed."""
    path = _own_study(place, config) / "study.json"
    path.write_text(path.read_text("utf-8").replace('"seed":0', '"seed":1'), "utf-8")
    with place.serving():
        yield


@fault("study not signed", "study.sig removed", "study", "STR-209", "sign")
def unsigned(place: Place, config: Path) -> Iterator[None]:
    """By nobody."""
    (_own_study(place, config) / "study.sig").unlink()
    with place.serving():
        yield


@fault("no consent", "removed", "consent", "STR-208", "consent give")
def no_consent(place: Place, config: Path) -> Iterator[None]:
    """None was given yet."""
    shutil.rmtree(config.parent / "exchange" / "consents")
    with place.serving():
        yield


@fault("consent withdrawn", "`consent withdraw`", "consent", "STR-208", "withdrawn")
def withdrawn(place: Place, config: Path) -> Iterator[None]:
    """By this site."""
    site = SiteConfig.load(config)
    key, digest = load_signing_key(site.signing_key), study_of(config).digest
    withdraw_consent(ConsentBook.below(site.exchange), key, study=digest, site=site.site)
    with place.serving():
        yield


@fault("consent about to end", "given for three days", "consent", "", "ends in", outcome="warning")
def ending(place: Place, config: Path) -> Iterator[None]:
    """In less than two weeks."""
    site = SiteConfig.load(config)
    key, digest = load_signing_key(site.signing_key), study_of(config).digest
    book = ConsentBook.below(site.exchange)
    give_consent(book, key, study=digest, site=site.site, days=3)
    with place.serving():
        yield


@fault("ledger changed", "one digit of a line", "ledger", "STR-220", "Line 2")
def ledger_changed(place: Place, config: Path) -> Iterator[None]:
    """By somebody."""
    path = config.parent / "courier" / "ledger.jsonl"
    with Ledger(path) as ledger:
        for number in (3, 5):
            entry = Entry(kind="refused", decision="refused", code="STR-205", round=number)
            ledger.append(entry)
    path.write_bytes(path.read_bytes().replace(b'"round":3', b'"round":4'))
    with place.serving():
        yield


@fault("stopped over the log", "what the witness leaves", "witness", "STR-222", "telephone")
def stopped(place: Place, config: Path) -> Iterator[None]:
    """The consortium's log did not hold."""
    folder = config.parent / "courier" / "witness"
    folder.mkdir()
    (folder / "stopped").write_text("It does not continue what this site has seen.\n")
    with place.serving():
        yield


@fault("paused", "`pause`", "pause", "STR-515", "resume", outcome="warning")
def paused(place: Place, config: Path) -> Iterator[None]:
    """And forgotten."""
    pause(config.parent / "courier", "holidays")
    with place.serving():
        yield


@fault("consortium.json missing", "removed", "consortium", "STR-101", "Restore consortium.json",
       also=("CA",))  # fmt: skip
def no_consortium(place: Place, config: Path) -> Iterator[None]:
    """Named in site.toml and not there."""
    (config.parent / "consortium.json").unlink()
    with place.serving():
        yield


@fault("nothing runs", "neither courier nor runner", "courier", "STR-502", "Start it",
       outcome="warning")  # fmt: skip
def nothing_runs(place: Place, config: Path) -> Iterator[None]:
    """As after a reboot without the units."""
    with place.serving():
        yield
