"""What all files written by people have in common: TOML, checked key by key."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stillroom.common.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """Immutable, and a misspelt key is an error rather than a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables in ``path``.

    Raises:
        ConfigError: STR-101 unreadable, STR-102 not TOML. Names lines, never values: they may
            be secrets.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not TOML: {error}.", fix="Correct the line it names.", code="STR-102"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read.",
            fix="Check the path and the file's permissions.",
            code="STR-101",
        ) from error


def checked(model: type[Model], value: object, *, what: str, page: str) -> Model:
    """``value`` as a ``model``.

    Args:
        model: Sections and keys.
        value: Nested dicts, as TOML gives them.
        what: The file, as the message should name it.
        page: Where its keys are explained, below ``docs/reference``.

    Raises:
        ConfigError: STR-102, all bad keys at once by their dotted names; never their values.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_input=False)
        )
        raise ConfigError(
            f"{what} has {error.error_count()} problem(s): {problems}.",
            fix=f"Correct these keys; all are explained in docs/reference/{page}.",
            code="STR-102",
        ) from error
