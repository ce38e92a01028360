"""A bad line between two network namespaces, in user space, that counts what crosses it.

``python line.py SERVER-NS SERVER-ADDRESS SITE-NS SITE-ADDRESS STATS [--rate-mbit R] [--delay-ms D]
[--loss P] [--seed S]``. One TUN device at each end; both directions alike. SIGUSR1 cuts the line,
SIGUSR2 mends it, SIGTERM ends it. STATS (JSON) is rewritten every 200 ms: the site's port ->
payload bytes of TCP up and down as they were put on the line, lost and repeated ones included, and
up and down again without what TCP repeated within a connection.
"""

import argparse
import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

CLONE_NEWNET, TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x40000000, 0x400454CA, 0x0001, 0x1000
SYN, WRAP = 0x02, 1 << 32
"""A connection's first segment (RFC 9293, 3.1), and where its sequence numbers begin again."""
QUEUE_S = 0.25
"""What a modem's buffer holds; more is dropped at its end."""


class Flows:
    """Counts the payload of every TCP connection that crosses.

    Attributes:
        counts: The site's port -> bytes up, down, and up and down for the first time.
    """

    def __init__(self) -> None:
        self.counts: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self._ahead: dict[tuple[int, bool], int] = {}

    def note(self, packet: bytes, *, upward: bool) -> None:
        """Count one IP packet; what is no TCP is left out."""
        if packet[0] >> 4 != 4 or packet[9] != 6:
            return
        head = (packet[0] & 15) * 4
        source, target, sequence = struct.unpack_from("!HHI", packet, head)
        payload = len(packet) - head - (packet[head + 12] >> 4) * 4
        port = source if upward else target
        count, way = self.counts[port], 0 if upward else 1
        count[way] += payload
        if packet[head + 13] & SYN:
            self._ahead[port, upward] = (sequence + 1) % WRAP
            return
        end = (sequence + payload) % WRAP
        fresh = (end - self._ahead.setdefault((port, upward), sequence)) % WRAP
        # Behind what has gone already it is a repetition; numbers wrap, so half a circle is "behind".
        if 0 < fresh < WRAP // 2:
            count[2 + way] += min(fresh, payload)
            self._ahead[port, upward] = end


@dataclass
class Line:
    """Both directions between the two ends.

    Attributes:
        ends: Descriptors of the server's and of the site's device.
        rate: Bytes a second; 0 for no limit.
        delay_s: One way.
        loss: Share of packets lost.
        chance: Decides which.
    """

    ends: tuple[int, int]
    rate: float
    delay_s: float
    loss: float
    chance: random.Random
    cut: bool = False
    under_way: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    count: itertools.count = field(default_factory=itertools.count)  # type: ignore[type-arg]
    free_at: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    flows: Flows = field(default_factory=Flows)

    def take(self, source: int, target: int, packet: bytes) -> None:
        """Put a packet on the line."""
        self.flows.note(packet, upward=source == self.ends[1])
        if self.cut:
            return
        now = time.monotonic()
        start = max(now, self.free_at[source])
        if start - now > QUEUE_S:
            return
        if self.rate:
            self.free_at[source] = start = start + len(packet) / self.rate
        if self.chance.random() < self.loss:
            return
        heapq.heappush(self.under_way, (start + self.delay_s, next(self.count), target, packet))

    def deliver(self) -> float:
        """Hand over what has arrived; seconds until the next packet does."""
        while self.under_way and self.under_way[0][0] <= time.monotonic():
            _, _, target, packet = heapq.heappop(self.under_way)
            if not self.cut:
                os.write(target, packet)
        if not self.under_way:
            return 0.1
        return min(0.1, max(0.0, self.under_way[0][0] - time.monotonic()))


def device(namespace: str, name: str, address: str) -> int:
    """A TUN device in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(there, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(there)
        os.close(home)
    for command in (
        ["addr", "add", address, "dev", name],
        ["link", "set", name, "mtu", "1400", "up"],
    ):
        subprocess.run(["ip", "-n", namespace, *command], check=True)
    return tun


def main() -> None:
    """Carry packets until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("server_ns", "server_address", "site_ns", "site_address", "stats"):
        parser.add_argument(name)
    for name, default in (("rate-mbit", 0.0), ("delay-ms", 0.0), ("loss", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    name = f"line{given.site_ns[-2:]}"
    ends = (
        device(given.server_ns, name, given.server_address),
        device(given.site_ns, name, given.site_address),
    )
    chance = random.Random(given.seed)  # noqa: S311  # repeatable
    rate, delay_s = given.rate_mbit * 125e3, given.delay_ms / 1e3
    line = Line(ends, rate, delay_s, given.loss, chance)
    signal.signal(signal.SIGUSR1, lambda *_: setattr(line, "cut", True))
    signal.signal(signal.SIGUSR2, lambda *_: setattr(line, "cut", False))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    stats, told = Path(given.stats), 0.0
    wait = 0.0
    while True:
        ready, _, _ = select.select(ends, (), (), wait)
        for end in ready:
            other = ends[1] if end == ends[0] else ends[0]
            for _ in range(64):
                try:
                    packet = os.read(end, 65536)
                except BlockingIOError:
                    break
                line.take(end, other, packet)
        wait = line.deliver()
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            temporary = stats.with_suffix(".new")
            temporary.write_text(json.dumps(line.flows.counts), "utf-8")
            os.replace(temporary, stats)


if __name__ == "__main__":
    main()
