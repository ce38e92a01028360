"""The pages in a real browser: what is shown, what is asked for, and what a hostile name can do."""

import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillroom.client import pausing
from stillroom.client.ledger import Entry
from stillroom.client.page.application import site_page
from stillroom.server.page.application import operator_page
from stillroom.server.store.runs import Runs

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SMALLEST = 320
"""Pixels of the narrowest telephone; no page is wider."""


class Window:
    """A page in the browser, and all that it said and asked for.

    Attributes:
        page: Playwright's.
        said: Lines of its console, errors among them.
        asked: Addresses that it asked for.
    """

    def __init__(self, page: Any) -> None:
        self.page, self.said, self.asked = page, list[str](), list[str]()
        page.on("console", lambda line: self.said.append(line.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def text(self) -> str:
        """What a reader sees."""
        return " ".join(str(self.page.inner_text("body")).split())

    def widest(self, width: int) -> int:
        """How wide the page is in a window of ``width`` pixels."""
        self.page.set_viewport_size({"width": width, "height": 800})
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def wider(self, width: int) -> list[str]:
        """Elements that reach beyond ``width``, for whoever has to find them."""
        script = """w => [...document.querySelectorAll('body *')]
            .filter(e => e.getBoundingClientRect().right > w + 1 && !e.closest('.scroll'))
            .map(e => e.outerHTML.slice(0, 160))"""
        return list(self.page.evaluate(script, width))


@pytest.fixture(scope="module")
def browser(worlds: SimpleNamespace) -> Iterator[Any]:
    """The system's Chromium; one for all tests here."""
    worlds.need(CHROMIUM.exists(), "Chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def window(browser: Any) -> Iterator[Window]:
    """A fresh window; whatever it says on its console fails the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    found = Window(context.new_page())
    yield found
    context.close()
    assert found.said == []


def test_the_site_page_pauses_and_resumes(window: Window, site_server: Any, hospital: Any) -> None:
    """A person reads that the site works, pauses it with a reason, reads that, and resumes it."""
    window.page.goto(site_server.url)
    text = window.text()
    for words in (
        "harbour", "Working", "Training: stage student, round 3", "Is it working?",
        "What is it learning?", "outlines of AO", "What has left?", "teach, round 2", "1.14 MB",
        "bf16-delta", "What was refused?", "STR-303",
    ):  # fmt: skip
        assert words in text, words
    window.page.click("text=5 numbers") if "5 numbers" in text else None
    window.page.fill("input[name=why]", "the scanner moves")
    window.page.click("button:has-text('Pause this site')")
    window.page.wait_for_selector("button:has-text('Resume')")
    found = pausing.standing(hospital.state)
    assert found is not None
    assert found.why == "the scanner moves"
    assert "Paused by this site" in window.text()
    assert "Reason: the scanner moves." in window.text()
    window.page.click("button:has-text('Resume')")
    window.page.wait_for_selector("button:has-text('Pause this site')")
    assert pausing.standing(hospital.state) is None
    assert {url.split("/")[2] for url in window.asked} == {site_server.host}


def test_the_operator_page_is_read_and_followed(window: Window, operator_server: Any) -> None:
    """Sites, the run with its matrix and curves, who waited; and a link to a run by itself."""
    window.page.goto(operator_server.url)
    text = window.text()
    for words in (
        "Example consortium", "Needs a look", "The certificate of north ends in 5 days",
        "Participation", "Learning curves", "Who waited for whom", "tls-plaintext",
        "no TLS at all", "Awaited: harbour and river.",
    ):  # fmt: skip
        assert words in text, words
    assert window.page.locator("svg.chart path.line").count() > 0
    assert window.page.locator("svg.cell").count() > 10
    window.page.click("text=trial >> nth=-1")
    assert "All sites and runs" in window.text()
    assert {url.split("/")[2] for url in window.asked} == {operator_server.host}


@pytest.mark.parametrize("which", ["site_server", "operator_server"])
def test_readable_on_a_telephone_on_paper_and_in_the_dark(
    window: Window, request: pytest.FixtureRequest, which: str
) -> None:
    """Nothing is wider than 320 pixels; headings, landmarks and names of fields are there."""
    window.page.goto(f"{request.getfixturevalue(which).url}?still")
    assert window.widest(SMALLEST) == SMALLEST
    assert window.widest(1100) == 1100
    tree = window.page.evaluate(
        """() => ({
            h1: document.querySelectorAll('h1').length,
            main: document.querySelectorAll('main').length,
            lang: document.documentElement.lang,
            columns: [...document.querySelectorAll('thead th')].every(e => e.scope === 'col'),
            fields: [...document.querySelectorAll('input:not([type=hidden])')].every(e => e.closest('label')),
            charts: [...document.querySelectorAll('svg.chart')].every(e => e.getAttribute('role') === 'img'),
        })"""
    )
    assert tree == {
        "h1": 1, "main": 1, "lang": "en", "columns": True, "fields": True, "charts": True,
    }  # fmt: skip
    for media in ({"color_scheme": "light"}, {"color_scheme": "dark"}, {"media": "print"}):
        window.page.emulate_media(**media)
        assert lowest_contrast(window) >= 4.5, media
    assert window.page.pdf(format="A4").startswith(b"%PDF")


def lowest_contrast(window: Window) -> float:
    """Of all text to what it stands on, as WCAG 2.2 computes it."""
    return float(
        window.page.evaluate(
            r"""() => {
            const parse = c => (c.match(/[\d.]+/g) || []).map(Number);
            const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const ground = e => {
                for (; e; e = e.parentElement) {
                    const c = parse(getComputedStyle(e).backgroundColor);
                    if (c.length === 3 || c[3] > 0.99) return c;
                }
                return [255, 255, 255];
            };
            let least = 21;
            for (const e of document.querySelectorAll('body *')) {
                const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
                if (!own || e.closest('svg') || !e.checkVisibility()) continue;
                const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
                least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
            }
            return least;
        }"""
        )
    )


def test_a_hostile_server_cannot_write_into_the_site_page(
    window: Window, worlds: SimpleNamespace, tmp_path: Path
) -> None:
    """Stages, numbers and encodings come from the server; reasons and names from anybody."""
    made = worlds.hospital(tmp_path / "harbour", consortium=worlds.EVIL[:64])
    evil, tag = worlds.EVIL, worlds.TAG
    made.enter(
        made.sent(evil[:64], 3, message=tag, metrics={evil: 1.0, tag: 2.0}, samples={evil: 3}),
        Entry(kind="refused", decision="refused", code="STR-300", stage=evil[:64], round=4),
    )
    (made.state / "witness").mkdir()
    (made.state / "witness" / "stopped").write_text(f"{evil} {tag}")
    pausing.pause(made.state, evil)
    with worlds.served(lambda where: site_page(made.config, where)) as page:
        window.page.goto(page.url)
        assert_harmless(window, page)
        assert tag in window.text()
        (made.state / "witness" / "stopped").unlink()
        window.page.reload()
        assert 'Reason: "><img src=x' in window.text()
        assert_harmless(window, page)


def test_a_hostile_site_cannot_write_into_the_operator_page(
    window: Window, worlds: SimpleNamespace, tmp_path: Path
) -> None:
    """Versions, reasons and names that sites send; names of runs that operators give."""
    made = worlds.coordinator(tmp_path / "server", consortium=worlds.EVIL[:64])
    evil, tag, now = worlds.EVIL, worlds.TAG, datetime.now(UTC).timestamp()
    sites = {evil: {"last_seen": now, "version": evil, "bytes_in": 1, "bytes_out": 1}}
    made.edge(sites=sites, refused={evil: 2}, handshakes_refused={tag: 1})
    late = worlds.round_of(1, {"harbour": 9.0, evil: 10.0})
    late["sites"][evil] |= {"status": "refused", "reason": f"{evil} {tag}"}
    made.journal.write("round-student-0001.json", late)
    made.journal.event("site.answered", stage=evil, round=9, site=evil, status="late", reason=tag)
    with Runs(made.config.runs) as runs:
        runs.add(evil, tmp_path / "no-study", tmp_path / "no-run", now)
        runs.give_up("trial", now, evil)
    with worlds.served(lambda where: operator_page(made.config, where)) as page:
        for path in ("", "run/1", "run/2"):
            window.page.goto(page.url + path)
            assert_harmless(window, page)
        assert tag in window.page.inner_text("body") or path == "run/2"


def assert_harmless(window: Window, page: Any) -> None:
    """Nothing ran, nothing was drawn that is not ours, nothing was asked of anybody else."""
    assert window.page.title() != "owned"
    assert window.page.locator("script, img, iframe, object, style").count() == 0
    assert "<script>" in window.text()
    assert {url.split("/")[2] for url in window.asked} == {page.host}
    assert not [url for url in window.asked if re.search(r"/x$", url)]
    assert window.widest(SMALLEST) == SMALLEST, window.wider(SMALLEST)


def test_it_is_checked_where_everything_is() -> None:
    """Where CI says so, a missing browser fails instead of being passed over."""
    if os.environ.get("CI"):
        assert CHROMIUM.exists()
        assert shutil.which("prometheus")
