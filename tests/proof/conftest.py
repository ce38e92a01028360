"""What the proofs share: a consortium made once, and the matrices, which are modules beside the tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(name: str) -> ModuleType:
    """Tests are no package; this module is imported by its file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


for _name in (
    "generation",
    "tampering",
    "flips",
    "faults",
    "independent",
    "kinds",
    "schemas",
    "tracing",
    "trial",
    "commits",
    "replays",
    "betrayals",
):
    _load(_name)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A consortium with a log of 1 000 entries; read it, change nothing."""
    import generation

    return generation.generate(tmp_path_factory.mktemp("world"), 1000)
