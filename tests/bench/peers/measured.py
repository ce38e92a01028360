"""What a run of anybody cost, in the same terms for all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sampling import Sampler
from wirecount import WireCount


@dataclass
class Measured:
    """One run of one system.

    Attributes:
        system: Its name.
        wall_s: Of each round.
        cpu_s: Of all processes together, of each round.
        server_cpu_s: Of the server's processes, of each round.
        up, down: Bytes per site on the wire, of each round; empty where nobody counted.
        server_peak: Sum of the peaks of the server's processes, in bytes.
        peaks: Name -> most resident bytes.
        cpu_by_process: CPU seconds of each process, of each round.
        files: Bytes of files of weights per site, of each round; of ours only.
        phases: Where a round's wall time went; of ours only.
        notes: What a reader must know.
    """

    system: str
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    server_cpu_s: list[float] = field(default_factory=list)
    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    server_peak: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    cpu_by_process: list[dict[str, float]] = field(default_factory=list)
    files: list[dict[str, float]] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, wire: WireCount, spans: Sequence[tuple[float, float]], sites: int) -> None:
        """Note the bytes on the wire of every round, per site."""
        pairs = [wire.between(start, end) for start, end in spans]
        self.down = [round(pair[0] / sites) for pair in pairs]
        self.up = [round(pair[1] / sites) for pair in pairs]

    def as_json(self) -> dict[str, Any]:
        """For ``performance.json``."""
        return {
            "system": self.system,
            "wall_s": [round(v, 2) for v in self.wall_s],
            "cpu_s": [round(v, 2) for v in self.cpu_s],
            "server_cpu_s": [round(v, 2) for v in self.server_cpu_s],
            "bytes_up_per_site": self.up,
            "bytes_down_per_site": self.down,
            "server_peak_mib": round(self.server_peak / 2**20, 1),
            "peak_mib": {name: round(v / 2**20, 1) for name, v in self.peaks.items()},
            "cpu_s_by_process": self.cpu_by_process,
            "files": self.files,
            "phases": self.phases,
            "notes": self.notes,
        }


def rounds_of(
    system: str,
    sampler: Sampler,
    spans: Sequence[tuple[float, float]],
    *,
    servers: Sequence[str],
) -> Measured:
    """Cost of rounds given by (start, end)."""
    found = Measured(system)
    for start, end in spans:
        used = {name: sampler.cpu(name, start, end) for name in sampler.tracks}
        found.wall_s.append(end - start)
        found.cpu_s.append(sum(used.values()))
        found.server_cpu_s.append(sum(used.get(name, 0.0) for name in servers))
        found.cpu_by_process.append({name: round(v, 2) for name, v in sorted(used.items())})
    found.peaks = sampler.peaks()
    found.server_peak = sum(found.peaks.get(name, 0) for name in servers)
    return found
