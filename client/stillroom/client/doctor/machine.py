"""Processor, memory and GPU of the machine or the container, as the kernel tells of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stillroom.client.doctor.examination import Examination
from stillroom.client.doctor.folders import GIB, MIB
from stillroom.common.checkup import Check, Finding, failed, ok, warning

BASE = int(1.5 * GIB)
"""A runner with torch and MONAI loaded and no network in memory."""
TIMES_TRAINED = 8
"""Of the largest network of the study: weights, gradients, the optimiser's two moments, the model that
came, the update that leaves, and a copy of each on its way. Patches come on top."""


@dataclass(frozen=True, slots=True)
class MemorySeen:
    """Bytes.

    Attributes:
        total: Of the machine.
        available: Without swapping.
        limit: Of the container or unit; None where there is none.
        used: Of that limit.
    """

    total: int
    available: int
    limit: int | None = None
    used: int = 0

    @property
    def most(self) -> int:
        """What a process here can ever have."""
        return self.total if self.limit is None else min(self.total, self.limit)

    @property
    def free(self) -> int:
        """What it could have now."""
        left = self.available if self.limit is None else self.limit - self.used
        return max(0, min(self.available, left))


def look_at_memory(system: Path) -> MemorySeen:
    """``/proc/meminfo``, and the tightest limit of cgroup v2 or v1 above this process.

    Raises:
        OSError: There is no ``/proc``.
    """
    fields = dict[str, int]()
    for line in (system / "proc/meminfo").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    limit, used = _tightest(system)
    return MemorySeen(fields["MemTotal"], fields["MemAvailable"], limit, used)


def _tightest(system: Path) -> tuple[int | None, int]:
    root = system / "sys/fs/cgroup"
    found: list[tuple[int, int]] = []
    for folder in _groups(system, root):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most = _number(folder / limit)
            # Version 1 writes a number close to 2^63 for no limit.
            if most is not None and most < 1 << 60:
                found.append((most, _number(folder / used) or 0))
    return min(found) if found else (None, 0)


def _groups(system: Path, root: Path) -> list[Path]:
    """The groups of this process, from its own up to the root; in a container it is the root."""
    folders = [root, root / "memory"]
    try:
        lines = (system / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers not in {"", "memory"} and "memory" not in controllers.split(","):
            continue
        base = root if not controllers else root / "memory"
        own = base / path.strip("/")
        while own != base and base in own.parents:
            folders.append(own)
            own = own.parent
    return folders


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii").strip())
    except (OSError, ValueError):
        return None  # "max", or no such file


def memory(exam: Examination) -> Finding:
    """What the runner may have, against what the study's largest network needs."""
    sizes = [stage.manifest.nbytes for stage in exam.prepared.stages.values()]
    return memory_finding(look_at_memory(exam.system), BASE + TIMES_TRAINED * max(sizes, default=0))


def memory_finding(seen: MemorySeen, need: int) -> Finding:
    """What it means. Pure."""
    whose = "this container or unit may use" if seen.limit is not None else "this machine has"
    told = f"{seen.most / GIB:.1f} GiB for {need / GIB:.1f} GiB" + (
        ", limited by a cgroup" if seen.limit is not None else ""
    )
    if seen.most < need:
        fix = (
            "Raise the memory limit of the runner's container or unit."
            if seen.limit is not None and seen.total >= need
            else "Run the runner on a machine with more memory."
        )
        return failed(
            f"The study needs {need / GIB:.1f} GiB beside its patches; {whose} "
            f"{seen.most / GIB:.1f} GiB.",
            fix,
            "STR-503",
            told=told,
        )
    if seen.free < need:
        return warning(
            f"{whose[:1].upper()}{whose[1:]} {seen.most / GIB:.1f} GiB, of which "
            f"{seen.free // MIB} MiB are free; the study needs {need / GIB:.1f} GiB.",
            "End what else runs here, unless it is the runner itself.",
            told=told,
        )
    return ok(f"{whose[:1].upper()}{whose[1:]} {seen.most / GIB:.1f} GiB.", told=told)


@dataclass(frozen=True, slots=True)
class GpuSeen:
    """What there is of a GPU.

    Attributes:
        wanted: ``device`` in site.toml.
        nodes: How many device files.
        driver: Version of the kernel's driver; empty for none.
        torch: What PyTorch was built for; empty for CPUs alone.
        usable: How many PyTorch can use.
        names: Of those.
    """

    wanted: str
    nodes: int
    driver: str
    torch: str
    usable: int
    names: tuple[str, ...] = ()


def look_at_gpu(
    wanted: str, system: Path, torch_sees: Callable[[], tuple[str, tuple[str, ...]]]
) -> GpuSeen:
    """Device files, driver, and what PyTorch makes of them."""
    driver = ""
    try:
        text = (system / "proc/driver/nvidia/version").read_text("utf-8", "replace")
        driver = next((w for w in text.split() if w[:1].isdigit() and w.count(".") >= 1), "")
    except OSError:
        pass
    nodes = sum(p.name[6:].isdigit() for p in (system / "dev").glob("nvidia[0-9]*"))
    built, names = torch_sees()
    return GpuSeen(wanted, nodes, driver, built, len(names), names)


def torch_sees() -> tuple[str, tuple[str, ...]]:
    """What PyTorch was built for, and the devices it can use."""
    import torch  # noqa: PLC0415  # seconds, and not in a courier's image

    built = str(torch.version.cuda or "")
    names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return built, tuple(names)


def gpu(exam: Examination) -> Finding:
    """Whether there is the one that site.toml asks for."""
    return gpu_finding(look_at_gpu(exam.config.device, exam.system, torch_sees))


def gpu_finding(seen: GpuSeen) -> Finding:
    """What it means: the first thing that is missing on the way from the driver to PyTorch. Pure."""
    told = (
        f"device = {seen.wanted}; {seen.nodes} device file(s), driver {seen.driver or 'none'}, "
        f"PyTorch for {('CUDA ' + seen.torch) if seen.torch else 'CPU'}, {seen.usable} usable"
    )
    if seen.usable:
        if seen.wanted == "cpu":
            return ok("There is a GPU; site.toml asks for the CPU.", told=told)
        return ok(f"{', '.join(seen.names)}, driver {seen.driver}.", told=told)
    if not seen.driver:
        saw, do = (
            "The kernel has no NVIDIA driver loaded.",
            "Install the driver on the host (`nvidia-smi` must work there).",
        )
    elif not seen.nodes:
        saw, do = (
            "The host has a driver, and no GPU reaches this container.",
            "Pass the GPU in: --device nvidia.com/gpu=all (CDI), or --gpus all.",
        )
    elif not seen.torch:
        saw, do = (
            "There is a GPU, and PyTorch here was built for CPUs alone.",
            "Install the image or wheel that is built for CUDA.",
        )
    else:
        saw, do = (
            f"PyTorch for CUDA {seen.torch} cannot use the GPU with driver {seen.driver}.",
            "Install a driver that knows that CUDA release, or an older image.",
        )
    if seen.wanted == "cuda":
        return failed(f"site.toml asks for a GPU. {saw}", do, "STR-111", told=told)
    if seen.wanted == "auto" and (seen.nodes or seen.driver):
        return warning(f"The CPU will be used. {saw}", do, "STR-111", told=told)
    return ok("No GPU; the CPU is used.", told=told)


CHECKS: tuple[Check[Examination], ...] = (
    Check("memory", memory, ("study",), part="runner"),
    Check("GPU", gpu, ("site.toml",), part="runner"),
)
