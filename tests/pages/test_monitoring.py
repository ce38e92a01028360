"""Alert rules, dashboard and metrics, held by a real Prometheus that scrapes real pages."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from stillroom.client.page import measures as client_measures
from stillroom.client.page.application import site_page
from stillroom.server.page import measures as server_measures
from stillroom.server.page.application import operator_page

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
NAMES = {one.name for one in (*client_measures.MEASURES, *server_measures.MEASURES)}
MEASURE = re.compile(r"\bstillroom_(?:client|server)_[a-z_]+")


def promtool(worlds: SimpleNamespace, *arguments: str) -> None:
    worlds.need(shutil.which("promtool") is not None, "promtool (Debian's prometheus)")
    done = subprocess.run(
        ["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alert_rules_hold_their_own_tests(worlds: SimpleNamespace) -> None:
    """Every alert fires when it should and is silent in good health, as promtool computes it."""
    promtool(worlds, "check", "rules", "alerts.yml")
    promtool(worlds, "test", "rules", "alerts.test.yml")


def test_every_alert_is_tested() -> None:
    """It is expected at least once, and expected to be silent at least once."""
    rules, tests = ((MONITORING / n).read_text("utf-8") for n in ("alerts.yml", "alerts.test.yml"))
    for name in re.findall(r"- alert: (\w+)", rules):
        parts = re.findall(rf"alertname: {name}\b(.*?)(?=eval_time|\Z)", tests, re.DOTALL)
        assert any("exp_labels" in part for part in parts), name
    assert set(MEASURE.findall(rules)) <= NAMES


def queries() -> list[str]:
    """Every query of the dashboard."""
    board = json.loads((MONITORING / "grafana.json").read_text("utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def test_the_dashboard_shows_every_measure() -> None:
    """Each is in a query, and no query asks for what nobody measures."""
    asked = {name for query in queries() for name in MEASURE.findall(query)}
    assert asked == NAMES


@pytest.fixture
def prometheus(
    tmp_path: Path, hospital: Any, coordinator: Any, worlds: SimpleNamespace
) -> Iterator[str]:
    """Debian's Prometheus on loopback, scraping both pages every second."""
    worlds.need(shutil.which("prometheus") is not None, "prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        worlds.served(lambda where: site_page(hospital.config, where)) as site,
        worlds.served(lambda where: operator_page(coordinator.config, where)) as operator,
    ):
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(MONITORING / "alerts.yml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [page.host]}]}
                for job, page in (("stillroom-client", site), ("stillroom-server", operator))
            ],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        process = subprocess.Popen(
            [
                "prometheus", f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def test_every_query_returns_data(prometheus: str) -> None:
    """Against a real Prometheus, which has scraped a hospital's and a server's page twice."""
    with httpx.Client(base_url=prometheus, timeout=10) as client:

        def ask(query: str) -> list[Any]:
            answer = client.get("/api/v1/query", params={"query": query})
            assert answer.status_code == 200, f"{query}: {answer.text}"
            return list(answer.json()["data"]["result"])

        until = time.monotonic() + 60
        while True:
            try:
                # Until it has read its own files it listens, and answers 503.
                ready = client.get("/-/ready").is_success
                if (
                    ready
                    and len(ask("increase(stillroom_client_refusals_total[1h])"))
                    and len(ask("increase(stillroom_server_refused_total[1h])"))
                ):
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, "Prometheus has scraped nothing"
            time.sleep(0.25)
        assert {one["value"][1] for one in ask("up")} == {"1"}
        assert [query for query in queries() if not ask(query)] == []
        health = client.get("/api/v1/rules").json()["data"]["groups"]
        assert {rule["health"] for group in health for rule in group["rules"]} <= {"ok", "unknown"}
