"""Memory of this machine, or of the container or unit that this process is in, as the kernel tells."""

from dataclasses import dataclass
from pathlib import Path


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
