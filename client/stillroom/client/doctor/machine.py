"""Processor, memory and GPU of the machine or the container, as the kernel tells of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stillroom.client.doctor.examination import Examination
from stillroom.client.doctor.folders import GIB, MIB
from stillroom.common.checkup import Check, Finding, failed, ok, warning
from stillroom.common.memory import MemorySeen, look_at_memory

BASE = int(1.5 * GIB)
"""A runner with torch and MONAI loaded and no network in memory."""
TIMES_TRAINED = 8
"""Of the largest network of the study: weights, gradients, the optimiser's two moments, the model that
came, the update that leaves, and a copy of each on its way. Patches come on top."""


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
