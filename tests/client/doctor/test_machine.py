"""Memory, limits, GPU and disks: what the kernel says, and what that means."""

from pathlib import Path

import pytest

from stillroom.client.doctor.folders import GIB, MIB, room
from stillroom.client.doctor.machine import (
    GpuSeen,
    gpu_finding,
    look_at_gpu,
    memory_finding,
)
from stillroom.common.memory import MemorySeen, look_at_memory


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n"}


@pytest.mark.parametrize(
    ("files", "limit", "used"),
    [
        ({}, None, 0),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None, 0),
        (
            {"sys/fs/cgroup/memory.max": "1073741824\n", "sys/fs/cgroup/memory.current": "5\n"},
            GIB,
            5,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "4096\n",
                "sys/fs/cgroup/a/memory.current": "7\n",
            },
            4096,
            7,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/docker/x\n",
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "8192\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            8192,
            0,
        ),
    ],
)
def test_the_tightest_limit_counts(
    tmp_path: Path, files: dict[str, str], limit: int | None, used: int
) -> None:
    """Of this group and all above it, in either version of cgroups."""
    seen = look_at_memory(system(tmp_path, MEMINFO | files))
    assert (seen.total, seen.available) == (16 * GIB, 8 * GIB)
    assert (seen.limit, seen.used) == (limit, used)


@pytest.mark.parametrize(
    ("seen", "outcome", "words"),
    [
        (MemorySeen(16 * GIB, 8 * GIB), "ok", ""),
        (MemorySeen(16 * GIB, GIB), "warning", "free"),
        (MemorySeen(GIB, GIB), "failed", "this machine has"),
        (MemorySeen(16 * GIB, 8 * GIB, GIB, 0), "failed", "container or unit"),
        (MemorySeen(16 * GIB, 8 * GIB, 4 * GIB, 3 * GIB), "warning", "free"),
    ],
)
def test_memory(seen: MemorySeen, outcome: str, words: str) -> None:
    """Less than is needed, less than is needed now, enough."""
    found = memory_finding(seen, 2 * GIB)
    assert found.outcome == outcome
    assert words in found.saw
    if seen.limit == GIB:
        assert "Raise the memory limit" in found.do


@pytest.mark.parametrize(
    ("seen", "outcome", "words"),
    [
        (GpuSeen("cuda", 0, "", "12.4", 0), "failed", "no NVIDIA driver"),
        (GpuSeen("cuda", 0, "550.1", "12.4", 0), "failed", "no GPU reaches"),
        (GpuSeen("cuda", 1, "550.1", "", 0), "failed", "built for CPUs"),
        (GpuSeen("cuda", 1, "450.1", "12.4", 0), "failed", "driver 450.1"),
        (GpuSeen("cuda", 1, "550.1", "12.4", 1, ("X",)), "ok", "X"),
        (GpuSeen("auto", 1, "550.1", "", 0), "warning", "CPU will be used"),
        (GpuSeen("auto", 0, "", "", 0), "ok", "No GPU"),
        (GpuSeen("cpu", 1, "550.1", "12.4", 1, ("X",)), "ok", "asks for the CPU"),
    ],
)
def test_gpu(seen: GpuSeen, outcome: str, words: str) -> None:
    """The first thing that is missing between the driver and PyTorch."""
    found = gpu_finding(seen)
    assert found.outcome == outcome
    assert words in found.saw
    assert found.code == ("" if outcome == "ok" else "STR-111")


def test_driver_and_device_files(tmp_path: Path) -> None:
    """As the kernel shows them; control files are no GPUs."""
    root = system(
        tmp_path,
        {
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Module  550.54.15  Tue",
            "dev/nvidia0": "",
            "dev/nvidiactl": "",
        },
    )
    seen = look_at_gpu("cuda", root, lambda: ("12.4", ()))
    assert (seen.nodes, seen.driver, seen.usable) == (1, "550.54.15", 0)


@pytest.mark.parametrize(
    ("have", "outcome"), [(99 * MIB, "failed"), (150 * MIB, "warning"), (GIB, "ok")]
)
def test_room(have: int, outcome: str) -> None:
    """Too little, hardly enough, enough."""
    assert room(have, 100 * MIB).outcome == outcome
