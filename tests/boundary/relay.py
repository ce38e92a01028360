"""A wire with a meter: TCP is passed on as it comes, and its bytes are counted, site by site."""

import asyncio
import contextlib
import json
import threading
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from pathlib import Path

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Relay:
    """Listens on loopback, one port a site, and passes everything on to one other port.

    Runs in a thread of its own from ``__enter__`` to ``__exit__``. What is counted is TCP payload:
    TLS with all its frames and handshakes, before anybody has decrypted a byte of it.
    """

    def __init__(self, target: int, ports: dict[str, int]) -> None:
        """Pass on from ``ports`` (site -> port) to ``target``, all of 127.0.0.1."""
        self._target, self._ports = target, ports
        self._up: dict[str, list[tuple[float, int]]] = {site: [(0.0, 0)] for site in ports}
        self._lines: dict[str, list[float]] = {site: [] for site in ports}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> "Relay":
        """Listen."""
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError("the relay did not start")
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; open connections end with the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def sent(self, site: str, start: float, end: float) -> int:
        """Bytes from ``site`` between two times (seconds since the epoch)."""
        series = self._up[site]
        first, last = (series[bisect_right(series, (t, 1 << 62)) - 1][1] for t in (start, end))
        return last - first

    def opened(self, site: str, start: float, end: float) -> int:
        """Connections of ``site`` that began between two times."""
        return sum(start <= t <= end for t in self._lines[site])

    def keep(self, path: Path) -> None:
        """Write down when how many bytes had gone, and when connections began."""
        path.write_text(json.dumps({"sent": self._up, "opened": self._lines}), "utf-8")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        for site, port in self._ports.items():
            await asyncio.start_server(self._accept(site), "127.0.0.1", port)

    def _accept(self, site: str) -> Accept:
        async def accept(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            self._lines[site].append(time.time())
            try:
                far, out = await asyncio.open_connection("127.0.0.1", self._target)
            except OSError:
                back.close()
                return
            series = self._up[site]
            await asyncio.gather(_pass_on(near, out, series), _pass_on(far, back, None))

        return accept


async def _pass_on(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    series: list[tuple[float, int]] | None,
) -> None:
    """Until either side ends."""
    with contextlib.suppress(OSError):
        while piece := await source.read(1 << 16):
            if series is not None:
                series.append((time.time(), series[-1][1] + len(piece)))
            sink.write(piece)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.close()
