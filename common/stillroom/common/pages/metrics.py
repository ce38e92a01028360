"""What a page counts, in the text format that Prometheus reads.

Every measure is declared once, with its help text, and never holds anything that comes from a patient:
names of sites, stages and runs, codes, counts and times.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.responses import Response
from typing_extensions import override

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured.

    Attributes:
        name: As it is asked for, e.g. ``stillroom_client_paused``; a counter's ends with ``_total``.
        help: What it says, in a sentence.
        labels: Names of its labels.
        kind: ``gauge`` or ``counter``.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"


Values = Iterable[tuple[Measure, Mapping[tuple[str, ...], float]]]
"""Of every measure: values of its labels -> its value."""


class _Once(Collector):
    def __init__(self, values: Values) -> None:
        self._values = values

    @override
    def collect(self) -> Iterator[Metric]:
        for measure, found in self._values:
            kind = GaugeMetricFamily if measure.kind == "gauge" else CounterMetricFamily
            family = kind(measure.name, measure.help, labels=measure.labels)
            for labels, value in sorted(found.items()):
                family.add_metric(labels, value)
            yield family


def exposition(values: Values) -> bytes:
    """The text of ``/metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(values))
    return generate_latest(registry)


def answer(values: Values) -> Response:
    """The text as a response."""
    return Response(exposition(values), media_type=MEDIA_TYPE)


def reference(title: str, intro: Sequence[str], measures: Sequence[Measure]) -> list[str]:
    """Lines of documentation."""
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{x}`' for x in one.labels) or '—'} | {one.help} |"
        for one in measures
    ]
    return [
        f"## {title}",
        "",
        *intro,
        "",
        "| name | kind | labels | what |",
        "|---|---|---|---|",
        *rows,
    ]
