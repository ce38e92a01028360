"""One study file per value of one option, so that each can be prepared and run by itself."""

import copy
import json
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

from stillroom.common.errors import ConfigError
from stillroom.common.settings import read_toml
from stillroom.common.study import Study


def sweep(file: Path, *, stage: str, option: str, values: list[Any], out: Path) -> list[Path]:
    """Write ``<name>-<option>-<value>.toml`` for each value; nothing when one of them is refused.

    The studies differ in their name and in ``[stage.options]`` of one stage, and in nothing else: the
    seed, and with it every random choice, is the same.

    Args:
        file: A study file.
        stage: Name of the stage.
        option: Key of its options.
        values: As TOML has them.
        out: Folder of the new files.

    Raises:
        ConfigError: STR-101, STR-102, STR-103 of the file or of one of the new ones; STR-107, a file is
            there already.
    """
    raw = read_toml(file)
    Study.parse(raw)
    if stage not in {one["name"] for one in raw["stage"]}:
        raise ConfigError(
            f"The study has no stage {stage}.", fix="Name one of its stages.", code="STR-103"
        )
    made: dict[Path, str] = {}
    for value in values:
        one = copy.deepcopy(raw)
        suffix = f"{option}-{value}".lower().replace("_", "-").replace(".", "-")
        one["study"]["name"] = f"{raw['study']['name']}-{suffix}"
        for table in one["stage"]:
            if table["name"] == stage:
                table.setdefault("options", {})[option] = value
        Study.parse(one)
        made[out / f"{one['study']['name']}.toml"] = as_toml(one)
    for path in made:
        if path.exists():
            raise ConfigError(
                f"{path} is there already.", fix="Name another folder with --out.", code="STR-107"
            )
    out.mkdir(parents=True, exist_ok=True)
    for path, text in made.items():
        path.write_text(text, "utf-8")
    return list(made)


def values_of(text: str) -> list[Any]:
    """Values with commas between them: numbers and truth values as TOML spells them, else strings."""
    found: list[Any] = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            found.append(tomllib.loads(f"value = {part}")["value"])
        except tomllib.TOMLDecodeError:
            found.append(part)
    return found


def as_toml(tables: dict[str, Any]) -> str:
    """Tables of tables as TOML: a section each, one key a line, deeper tables inline."""
    parts = []
    for name, table in tables.items():
        repeated = isinstance(table, list)
        for one in table if repeated else [table]:
            head = f"[[{name}]]" if repeated else f"[{name}]"
            parts.append("\n".join([head, *(f"{_key(k)} = {_value(v)}" for k, v in one.items())]))
    return "\n\n".join(parts) + "\n"


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, date):
        return value.isoformat()
    # Strings, numbers and truth values are spelt as in JSON.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
