"""A hospital and a server as their files lie on the disk, and pages that look at them."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tomli_w
from typing_extensions import override

from stillroom.client.config import SiteConfig
from stillroom.client.consents import ConsentBook, give_consent
from stillroom.client.ledger import Entry, Ledger
from stillroom.client.page.application import site_page
from stillroom.client.pulse import PulseKeeper
from stillroom.common.consortium import make_consortium
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.pages.guard import Guard
from stillroom.common.pages.listening import Listening, listening
from stillroom.common.pages.serving import bound, server_of
from stillroom.common.pki.files import write_certificate, write_key, write_signing_key
from stillroom.common.pki.issue import issue_site, make_ca, new_key
from stillroom.common.signed_study import sign_study
from stillroom.common.signing import new_signing_key
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_weights
from stillroom.server.config import ServerConfig
from stillroom.server.foundation import found
from stillroom.server.page.application import operator_page
from stillroom.server.rounds.state import RunState
from stillroom.server.store.journal import Journal
from stillroom.server.store.members import Issued, Request
from stillroom.server.store.registry import Registry
from stillroom.server.store.runs import Runs

EVIL = "\"><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
"""What somebody would call a site, a stage or a patient to have a page run it."""
TAG = "(0010,0010) PN [DOE^JOHN<b>]"
"""What a DICOM header looks like in somebody's error message."""


def need(is_there: bool, what: str) -> None:
    """Skip without a tool, but not where everything has to be checked."""
    if is_there:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


def tiny_study(folder: Path) -> PreparedStudy:
    """Two stages over one tensor, without torch."""
    spec = TensorSpec(name="w", shape=(2,), dtype="float32", group="g")
    digest = write_weights(folder / "weights", {"w": np.ones(2, np.float32)})
    stage = PreparedStage(initial_sha256=digest, manifest=Manifest(tensors=(spec,)))
    study = Study.parse(
        {
            "study": {"name": "pages", "quorum": {"min_sites": 2}, "held_out": ["summit"]},
            "volume": {"spacing_mm": [2, 2, 2], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["AO"]}},
            "model": {
                "teacher": {"arch": "dynunet", "channels": [4, 4, 4]},
                "student": {"arch": "light-swin", "feature_size": 12},
            },
            "stage": [
                {"name": "teach", "recipe": "teach", "label": "vessels", "rounds": 2},
                {"name": "label", "recipe": "pseudolabel", "teachers": ["teach"]},
                {"name": "student", "recipe": "distil", "rounds": 4},
            ],
        }
    )
    prepared = PreparedStudy(study=study, stages={"teach": stage, "student": stage})
    (folder / "study.json").write_text(prepared.model_dump_json())
    return prepared


@dataclass
class Hospital:
    """One enrolled site whose courier has just written its pulse.

    Attributes:
        folder: With site.toml.
        prepared: Its study.
        pulse: The courier's.
    """

    folder: Path
    prepared: PreparedStudy
    pulse: PulseKeeper

    @property
    def config(self) -> SiteConfig:
        """Its site.toml."""
        return SiteConfig.load(self.folder / "site.toml")

    @property
    def state(self) -> Path:
        """The courier's folder."""
        return self.folder / "courier"

    def enter(self, *entries: Entry) -> None:
        """Write lines into the ledger."""
        with Ledger(self.state / "ledger.jsonl") as ledger:
            for entry in entries:
                ledger.append(entry)

    def sent(self, stage: str = "teach", number: int = 1, **more: Any) -> Entry:
        """A line about an update."""
        fields = {
            "study": self.prepared.digest, "stage": stage, "round": number, "message": "round",
            "content": f"{number:064x}", "bytes": 1_142_472, "encoding": "bf16-delta", "norm": 2.5,
            "samples": {"g": 7}, "metrics": {"train.loss": 0.5}, "time": datetime.now(UTC),
        }  # fmt: skip
        return Entry(kind="sent", decision="allowed", **(fields | more))


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    """Enrolled, consented, connected, and at work on its third round."""
    return make_hospital(tmp_path / "harbour")


def make_hospital(folder: Path, consortium: str = "Example consortium") -> Hospital:
    """As the fixture says."""
    folder.mkdir()
    now, operator, signing = datetime.now(UTC), new_signing_key(), new_signing_key()
    ca, ca_key = make_ca("Example", 365, now)
    key = new_key()
    write_key(folder / "site.key", key)
    write_certificate(folder / "ca.pem", ca)
    certificate = issue_site(ca, ca_key, key.public_key(), "harbour", now)
    write_certificate(folder / "site.pem", certificate)
    write_signing_key(folder / "signing.key", signing)
    (folder / "consortium.json").write_bytes(
        make_consortium(
            consortium, ca, ca_key, {"ada": operator.public_key()}, operator, now,
            log_key=new_signing_key().public_key(),
        )
    )  # fmt: skip
    prepared = tiny_study(folder / "study")
    sign_study(folder / "study", operator)
    book = ConsentBook.below(folder / "exchange")
    give_consent(book, signing, study=prepared.digest, site="harbour")
    tls = {"ca": "ca.pem", "certificate": "site.pem", "private_key": "site.key"}
    toml = {
        "site": "harbour", "server": "fl.example.org:443", "data": ["scans"], "state": "state",
        "study": "study", "tls": tls,
    }  # fmt: skip
    (folder / "site.toml").write_text(tomli_w.dumps(toml), "utf-8")
    (folder / "courier").mkdir()
    made = Hospital(folder, prepared, PulseKeeper(folder / "courier"))
    made.enter(
        Entry(kind="task", decision="allowed", message="inventory"),
        made.sent(
            "", 0, message="inventory", content="", bytes=0, encoding="", samples={},
            metrics={"inventory.cases": 22.0, "inventory.vessels.cases": 10.0},
        ),
        made.sent("teach", 1),
        made.sent("teach", 2),
        made.sent("teach", 2),
        Entry(kind="refused", decision="refused", code="STR-303", stage="teach", round=2),
    )  # fmt: skip
    made.pulse.connected()
    made.pulse.beat(runner=True)
    made.pulse.entered(
        Entry(kind="task", message="round", stage="student", round=3, decision="allowed")
    )
    return made


@dataclass
class Coordinator:
    """A server that is not running, and what it has written.

    Attributes:
        folder: With server.toml.
        prepared: The study of its run.
        journal: Of the run.
    """

    folder: Path
    prepared: PreparedStudy
    journal: Journal

    @property
    def config(self) -> ServerConfig:
        """Its server.toml."""
        return ServerConfig.load(self.folder / "server.toml")

    def edge(self, **record: Any) -> None:
        """Replace what the edge has seen."""
        Journal(self.folder / "state" / "edge").write("edge.json", record)


def round_of(number: int, seconds: dict[str, float], **status: str) -> dict[str, Any]:
    """A committed round: how long every site took, and who did not count."""
    sites = {
        site: {
            "status": status.get(site, "admitted"),
            **({"reason": "STR-303: A tensor holds NaN."} if site in status else {}),
            "samples": {"g": 5},
            "metrics": {"train.loss": 1.0 / number, "eval.vessels.AO.dice": 0.2 * number},
            "bytes_up": 1000,
            "bytes_down": 900,
            "seconds": took,
        }
        for site, took in seconds.items()
    }
    order = [site for site in sites if site not in status]
    longest = max(seconds.values())
    return {"round": number, "order": order, "sites": sites, "seconds": longest, "bytes_up": 2000}


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    """Three sites, of which one is late at times, and a run in its third round."""
    return make_coordinator(tmp_path / "server")


def make_coordinator(folder: Path, consortium: str = "Example consortium") -> Coordinator:
    """As the fixture says."""
    now = time.time()
    found(folder, name=consortium, hosts=["127.0.0.1"], now=datetime.now(UTC))
    config = ServerConfig.load(folder / "server.toml")
    assert config.registry is not None
    with Registry(config.registry) as registry:
        for index, (site, days) in enumerate((("harbour", 25), ("north", 5), ("river", 20))):
            registry.invite(site, f"token-{site}", now)
            registry.request(
                f"token-{site}", Request("pem", f"spki{index}", f"key{index}", "f"), now
            )
            registry.enrol(site, "f", Issued("pem", f"{index:064x}", now + days * 86_400), now)
        registry.invite("summit", "token-summit", now)
    prepared = tiny_study(folder / "study")
    run = folder / "run"
    with Runs(config.runs) as runs:
        runs.add("trial", folder / "study", run, now - 600)
    journal = Journal(run)
    took = [{"harbour": 10.0, "north": 14.0, "river": 60.0}, {"harbour": 11.0, "north": 9.0}]
    journal.write("round-teach-0001.json", round_of(1, took[0]))
    journal.write("round-teach-0002.json", round_of(2, {**took[1], "river": 70.0}, river="refused"))
    journal.write("round-label-0001.json", round_of(1, took[0]))
    journal.write("round-student-0001.json", round_of(1, took[0]))
    closed = {"teach": 2, "label": 1, "student": 1}
    inventories = {site: {"inventory.cases": 3.0} for site in ("harbour", "north", "river")}
    state = RunState(
        study=prepared.digest, started_at=now - 600, phase="round", wave=2, number=2,
        closed=closed, inventories=inventories,
    )  # fmt: skip
    journal.write("state.json", state.as_json())
    journal.event("study.started", study=prepared.digest)
    journal.event(
        "round.opened", stage="student", round=2, of=4, invited=["harbour", "north", "river"]
    )
    journal.event(
        "site.answered", stage="student", round=2, site="north", status="admitted", reason=""
    )
    made = Coordinator(folder, prepared, journal)
    made.edge(
        sites={
            site: {
                "certificate_sha256": "0", "tls_version": "TLSv1.3", "first_seen": now - 500,
                "last_seen": now - past, "requests": 7, "bytes_in": 2000, "bytes_out": 3000,
                "version": "0.1.0",
            }
            for site, past in (("harbour", 3.0), ("north", 2.0), ("river", 4000.0))
        },
        refused={"revoked": 3},
        handshakes_refused={"tls-plaintext": 5},
    )  # fmt: skip
    return made


@dataclass(frozen=True)
class Served:
    """A page that answers.

    Attributes:
        url: With a slash at its end.
    """

    url: str

    @property
    def host(self) -> str:
        """Name and port."""
        return self.url.split("/")[2]


@contextlib.contextmanager
def served(make: Callable[[Listening], Guard], **more: Any) -> Iterator[Served]:
    """Serve an application on loopback, in a thread."""
    where = listening("127.0.0.1:0", **more)
    with bound(where) as found_socket:
        server = server_of(make(where), where)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found_socket]})
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{found_socket.getsockname()[1]}/")
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def site_server(hospital: Hospital) -> Iterator[Served]:
    """The site's page of ``hospital``."""
    with served(lambda where: site_page(hospital.config, where)) as page:
        yield page


@pytest.fixture
def operator_server(coordinator: Coordinator) -> Iterator[Served]:
    """The operator's page of ``coordinator``."""
    with served(lambda where: operator_page(coordinator.config, where)) as page:
        yield page


ALLOWED = frozenset(
    re.findall(
        r"\w+",
        """html head meta title link body header main footer section div p h1 h2 h3 ul ol li dl dt dd
        table caption thead tbody tr th td b i em strong small span code a form label input button
        details summary figure figcaption svg desc g path text circle rect""",
    )
)
"""Elements that our pages are made of; a script, an image, a style is none of them."""


class Page(HTMLParser):
    """A page as a browser takes it: refuses what a page of ours never has.

    Attributes:
        text: All of its words.
    """

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.ids: list[str] = []
        self.feed(source)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, f"<{tag}>"
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name != "style", "a policy without inline style forbids it"
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "action", "src"}:
                assert re.match(r"[/#?]", value or "/"), value
                assert not (value or "").startswith("//"), value

    @override
    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    @override
    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="session")
def worlds() -> SimpleNamespace:
    """What tests of pages are made of; tests are no package and cannot import it."""
    return SimpleNamespace(
        EVIL=EVIL, TAG=TAG, Page=Page, hospital=make_hospital, coordinator=make_coordinator,
        round_of=round_of, served=served, need=need,
    )  # fmt: skip
