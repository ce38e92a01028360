"""docs/reference/field.md: what was tried in containers, and what a first round costs."""

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from checks import Checks

HEAD = """\
# In the field, tried

Written by `make field` on {day}: images built {when} by podman, a server and three hospitals in
network namespaces of one machine ({cores} cores, kernel {kernel}). Firewalls let a hospital out to tcp/443
of the server, `harbour` to an authenticating CONNECT proxy alone; containers get what
[`deploy/client/compose.yaml`](../../deploy/client/compose.yaml) says. The study is as small as a study can
be: these are no figures about learning.

**{summary}**

## From an empty host to the first round

{table}

Commands of one hospital, besides unpacking the study and naming its labels in `site.toml`:

```sh
{commands}
```

Commands of the operator, for three hospitals:

```sh
{operator}
```

NVFlare 2.9 was measured on such a machine with a server and three sites: 13 steps (12 commands, 3 files
written by hand, a configuration edited) and 6.5 minutes to the first round, about 2 of them spent reading
source and 80 s of installing. Its steps join sites on the same machine whose keys the operator made; here
each hospital makes its own, and the time includes the operator's approval of each. What a person reads and
thinks is in its minutes and not in ours: compare the steps, not the seconds.

## Not tried, not counted

- Seconds hold neither loading nor building images; NVFlare's hold 80 s of installing.
- Above, compose files are translated to `podman run`, key by key, so that each container gets a namespace of
  ours. {compose}
- Compose's second version, podman-compose and quadlets were not run; Compose 1.29 reads the files in every
  test run.
- The image of the next release is built here from this one's and comes out of no tarball.
- The study comes to a hospital as a copy in this machine, and its labels' section in `site.toml` is
  written by the run.
- Ctrl-C in the middle of the run was tried by hand in an earlier version; a test tries its ending with real
  signals and no container.

## What was tried

| | what | seen |
|---|---|---|
{rows}
"""
COMPOSE = """
## Compose and Docker's engine

Server and hospital as two Compose projects of one Docker engine in a namespace of its own, from the same
tarballs, settings in `.env`, commands as on the pages for [hospitals](../hospital-it/containers.md) and
[operators](../operators/containers.md).

**{summary}**

| | what | seen |
|---|---|---|
{rows}
"""


@dataclass(frozen=True, slots=True)
class Costs:
    """What getting to the first round took.

    Attributes:
        hospital, operator: Commands typed.
        joined_s: From the first hospital's first command until all three run.
        first_round_s: From there until the first round is committed.
        founded_s: The operator's part before.
        images_s: Building; None when images of an earlier run were used.
    """

    hospital: list[str]
    operator: list[str]
    founded_s: float
    joined_s: float
    first_round_s: float
    images_s: float | None


def table(costs: Costs) -> str:
    """Steps and seconds beside NVFlare's."""
    total = costs.joined_s + costs.first_round_s
    every = len(costs.operator) + 3 * len(costs.hospital)
    lines = [
        "| | stillroom | NVFlare 2.9 |",
        "|---|---|---|",
        f"| commands at one hospital | {len(costs.hospital)} | |",
        f"| commands in all, three hospitals | {every} | 12, and 3 files written |",
        f"| consortium founded, study prepared and signed, server up | {costs.founded_s:.0f} s | |",
        f"| three hospitals enrolled, approved, consenting, running | {costs.joined_s:.0f} s | |",
        f"| from there to the first committed round | {costs.first_round_s:.0f} s | |",
        f"| **hospital's empty host to first round** | **{total:.0f} s** | 390 s |",
    ]
    if costs.images_s is not None:
        lines.append(f"| building three images (not in the sums) | {costs.images_s:.0f} s | |")
    return "\n".join(lines)


def write(path: Path, checks: Checks, costs: Costs, composed: Checks | None = None) -> None:
    """The page; ``composed`` is what Compose was tried with, where it was."""
    import os

    text = HEAD.format(
        day=datetime.now(UTC).strftime("%Y-%m-%d"),
        cores=os.cpu_count(),
        kernel=platform.release().split("-")[0],
        when="in an earlier run" if costs.images_s is None else "from nothing",
        summary=checks.summary(),
        table=table(costs),
        commands="\n".join(_plain(line) for line in costs.hospital),
        operator="\n".join(_plain(line) for line in costs.operator),
        rows=_rows(checks),
        compose="Compose itself and Docker's engine were not run this time."
        if composed is None
        else "Compose itself and Docker's engine: [below](#compose-and-dockers-engine).",
    )
    if composed is not None:
        text += COMPOSE.format(summary=composed.summary(), rows=_rows(composed))
    path.write_text(text, "utf-8")


def _rows(checks: Checks) -> str:
    rows = [
        f"| {'yes' if held else '**NO**'} | {what} | {_cell(seen)} |"
        for held, what, seen in checks.lines
    ]
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _plain(line: str) -> str:
    """A command as anybody would type it: no token, no scratch folder."""
    import re

    line = re.sub(r"--token \S+", "--token TOKEN", line)
    line = re.sub(r"--fingerprint ('[^']*'|\S+)", "--fingerprint DIGITS", line)
    return re.sub(r"/\S*/(?=(place|study|scans|operator|release)\b)", "", line)
