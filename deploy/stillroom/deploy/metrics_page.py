"""``docs/reference/metrics.md``: every measure of both pages, from their declarations."""

from stillroom.client.page import measures as client
from stillroom.common.pages.metrics import reference
from stillroom.server.page import measures as server

INTRO = """\
# Metrics

Both pages answer `/metrics` in Prometheus' text format 0.0.4: [the site's](../hospital-it/page.md) for
the hospital's own monitoring, [the operator's](../operators/page.md) for the operator's. Neither side sees
the other's. Labels are names of sites, runs, stages and reasons, and error codes; no count of scans, no
score and nothing else that comes from a patient is among them.

`deploy/monitoring/` holds alert rules with their tests, and a Grafana dashboard; a test runs each of its
queries against a real Prometheus that scrapes both pages.
"""


def metrics_page() -> str:
    """The page."""
    lines = [
        INTRO,
        *reference("Of a site", ["From `stillroom-client page`."], client.MEASURES),
        "",
        *reference("Of a server", ["From `stillroom-server page`."], server.MEASURES),
    ]
    return "\n".join(lines) + "\n"
