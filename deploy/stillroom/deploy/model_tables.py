"""A pydantic model's keys as rows of a Markdown table. Pure."""

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def rows_of(model: type[BaseModel]) -> list[str]:
    """``| key | type | default | meaning |`` of every key that holds no section, or says something."""
    return [
        f"| `{name}` | {_type(field)} | {_default(field)} | {_text(field)} |"
        for name, field in model.model_fields.items()
        if field.description or not _models_in(field.annotation)
    ]


def sections_below(model: type[BaseModel], prefix: str = "") -> list[tuple[str, type[BaseModel]]]:
    """Path, as TOML writes it, and model of every section that ``model`` holds."""
    return [
        (_path(prefix, name, field.annotation), one)
        for name, field in model.model_fields.items()
        for one in _models_in(field.annotation)
    ]


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
