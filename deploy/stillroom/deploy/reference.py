"""The pages of docs/reference that are made from the code: codes, keys, the log's entries.

``python -m stillroom.deploy.reference`` writes them; with ``--check`` it refuses stale ones.
"""

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stillroom.client.config import SiteConfig
from stillroom.common.errors import CODES
from stillroom.common.study import Study
from stillroom.deploy.ledger_page import ledger_page
from stillroom.deploy.log_page import log_page, log_schema
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
    seen: set[type[BaseModel]] = set()
    _section(model, "", lines, seen)
    return "\n".join(lines) + "\n"


def _section(
    model: type[BaseModel], prefix: str, lines: list[str], seen: set[type[BaseModel]]
) -> None:
    """One table of scalar keys, then the sections below."""
    if model in seen:
        return
    seen.add(model)
    rows, below = [], []
    for name, field in model.model_fields.items():
        inner = _models_in(field.annotation)
        if inner:
            below += [(one, _path(prefix, name, field.annotation)) for one in inner]
        if not inner or field.description:
            rows.append(f"| `{name}` | {_type(field)} | {_default(field)} | {_text(field)} |")
    if prefix:
        doc = " ".join((model.__doc__ or "").split())
        lines += ["", f"## `{prefix}`", "", doc]
    if rows:
        lines += ["", "| key | type | default | meaning |", "|---|---|---|---|", *rows]
    for one, path in below:
        _section(one, path, lines, seen)


def _path(prefix: str, name: str, annotation: Any) -> str:
    bare = f"{prefix.strip('[]')}.{name}".strip(".")
    origin = get_origin(annotation)
    if origin is dict:
        return f"[{bare}.NAME]"
    return f"[[{bare}]]" if origin is tuple else f"[{bare}]"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _type(field: FieldInfo) -> str:
    return _name(field.annotation).replace("|", "or")


def _name(annotation: Any) -> str:  # a list of rules
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(parts[0])
    if origin is Literal:
        return " or ".join(f'"{part}"' for part in parts)
    if origin in {Union, UnionType}:
        return " or ".join(_name(part) for part in parts if part is not type(None))
    if origin is tuple:
        inner = [_name(part) for part in parts if part is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in parts else f"[{', '.join(inner)}]"
    if origin is dict:
        return f"table of {_name(parts[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    if isinstance(annotation, type):
        return names.get(annotation, "section" if issubclass(annotation, BaseModel) else "path")
    return "text"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else None
    if value is None or value == () or isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "/")


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
