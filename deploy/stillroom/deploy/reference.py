"""The pages of docs/reference that are made from the code: codes, keys, the log's entries.

``python -m stillroom.deploy.reference`` writes them; with ``--check`` it refuses stale ones.
"""

import sys
from pathlib import Path

from pydantic import BaseModel

from stillroom.client.config import SiteConfig
from stillroom.common.errors import CODES
from stillroom.common.study import Study
from stillroom.deploy.ledger_page import ledger_page
from stillroom.deploy.log_page import log_page, log_schema
from stillroom.deploy.metrics_page import metrics_page
from stillroom.deploy.model_tables import rows_of, sections_below
from stillroom.deploy.recipes_page import recipes_page
from stillroom.server.config import ServerConfig

FOLDER = Path("docs/reference")
FAMILIES = {
    "1": ("Configuration", 2),
    "2": ("Trust", 3),
    "3": ("Contract between server and site", 4),
    "4": ("Data", 5),
    "5": ("Resources", 6),
}


def pages() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {
        "errors.md": _errors(),
        "ledger.md": ledger_page(),
        "log.md": log_page(),
        "log-schema.json": log_schema(),
        "metrics.md": metrics_page(),
        "recipes.md": recipes_page(),
        "study-file.md": _model(
            Study,
            "The study file",
            "What the consortium decides, as TOML. `stillroom-server study check FILE` checks it; "
            "an unknown key is an error. `deploy/stillroom/deploy/studies/` holds complete ones.",
        ),
        "site-config.md": _model(
            SiteConfig,
            "site.toml",
            "The one file a hospital edits. Relative paths are relative to the file's folder; an "
            "unknown key is an error, and messages name keys, never values.",
        ),
        "server-config.md": _model(
            ServerConfig,
            "server.toml",
            "The one file an operator edits. Relative paths are relative to the file's folder.",
        ),
    }


def _errors() -> str:
    lines = [
        "# Error codes",
        "",
        "Every expected failure prints `error CODE: what happened` and `fix: what to do`, and ends",
        "with the exit status of its family. Between hospital and server nothing but the code",
        "travels. Codes are stable. 130 is the exit status after Ctrl-C.",
    ]
    for digit, (family, status) in FAMILIES.items():
        lines += ["", f"## {family}: exit status {status}", "", "| code | meaning |", "|---|---|"]
        lines += [f"| `{c}` | {text} |" for c, text in CODES.items() if c[4] == digit]
    return "\n".join(lines) + "\n"


def _model(model: type[BaseModel], title: str, intro: str) -> str:
    lines = [f"# {title}", "", intro]
    _section(model, "", lines, set())
    return "\n".join(lines) + "\n"


def _section(
    model: type[BaseModel], prefix: str, lines: list[str], seen: set[type[BaseModel]]
) -> None:
    """One table of scalar keys, then the sections below."""
    if model in seen:
        return
    seen.add(model)
    if prefix:
        doc = " ".join((model.__doc__ or "").split())
        lines += ["", f"## `{prefix}`", "", doc]
    if rows := rows_of(model):
        lines += ["", "| key | type | default | meaning |", "|---|---|---|---|", *rows]
    for path, one in sections_below(model, prefix):
        _section(one, path, lines, seen)


def main() -> int:
    """Write the pages, or with ``--check`` say which are stale."""
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text("utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, "utf-8")
    if stale:
        sys.stderr.write(f"stale in {FOLDER}: {', '.join(stale)}; run `make docs`.\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
