"""A compose file's services as ``podman run``: what is tried here is what the file says.

Compose itself is not needed for that, and could not put a container into a namespace of ours. A key
that is not translated is an error: nothing of the file is left out by accident.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

SET = re.compile(r"\$\{(\w+):-([^}]*)\}")
HARMLESS = {
    "restart",
    "depends_on",
    "healthcheck",
    "networks",
    "ports",
    "sysctls",
    "image",
    "profiles",
}
"""Not of the container itself; networks and ports are the namespaces' here."""


def services(file: Path, settings: Mapping[str, str]) -> dict[str, Any]:
    """The services of ``file``, with ``${NAME:-default}`` filled in."""
    text = SET.sub(lambda found: settings.get(found[1]) or found[2], file.read_text("utf-8"))
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def _option(name: str) -> Callable[[Any], list[str]]:
    return lambda value: [f"--{name}={value}"]


def _each(name: str) -> Callable[[Any], list[str]]:
    return lambda values: [f"--{name}={value}" for value in values]


OPTIONS: dict[str, Callable[[Any], list[str]]] = {
    "user": _option("user"),
    "read_only": lambda value: ["--read-only", "--read-only-tmpfs=false"] if value else [],
    "tmpfs": _each("tmpfs"),
    "cap_drop": _each("cap-drop"),
    "security_opt": lambda values: [f"--security-opt={v.replace(':true', '')}" for v in values],
    "pids_limit": _option("pids-limit"),
    "mem_limit": _option("memory"),
    "shm_size": _option("shm-size"),
    "stop_grace_period": lambda value: [f"--stop-timeout={value.removesuffix('s')}"],
    "environment": lambda pairs: [f"--env={k}={v}" for k, v in pairs.items() if v],
}


def run_options(service: Mapping[str, Any], prefix: str) -> list[str]:
    """Options of ``podman run`` for one service, without its network; volumes get ``prefix``."""
    options: list[str] = []
    for key, value in service.items():
        if key in OPTIONS:
            options += OPTIONS[key](value)
        elif key == "volumes":
            for volume in value:
                name = volume if volume.startswith("/") else f"{prefix}-{volume}"
                options.append(f"--volume={name}")
        elif key == "entrypoint":
            options.append(f"--entrypoint={value[0]}")
        elif key not in HARMLESS | {"command", "network_mode"}:
            raise ValueError(f"compose.py does not know {key}")
    return options
