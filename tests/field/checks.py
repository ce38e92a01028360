"""Each thing that is tried, as a line; how many held, as the last one."""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Checks:
    """What held and what did not, in order.

    Attributes:
        say: Prints a line.
        name: Of the whole, in its last line.
    """

    say: Callable[[str], None]
    name: str = "field"
    lines: list[tuple[bool, str, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def note(self, text: str) -> None:
        """A step that proves nothing in itself."""
        self.say(f"{time.monotonic() - self.started:7.1f} s  {text}")

    def hold(self, what: str, seen: object, *, want: object = True, detail: str = "") -> bool:
        """``seen`` must equal ``want``; says what was seen where it does not."""
        held = seen == want
        shown = detail if held else f"seen {str(seen)[:600]}{'; ' + detail if detail else ''}"
        self.lines.append((held, what, shown))
        mark = "ok    " if held else "FAILED"
        self.note(f"{mark} {what}{': ' + shown if shown else ''}")
        return held

    def part(self, what: str, act: Callable[[], object]) -> None:
        """A part of the whole; what stops it is a check that failed, and the next part is tried."""
        try:
            act()
        except Exception as error:  # noqa: BLE001  # the rest is still worth trying
            self.hold(f"{what}: tried to the end", f"{type(error).__name__}: {error}")

    @property
    def passed(self) -> int:
        """How many held."""
        return sum(held for held, _, _ in self.lines)

    def summary(self) -> str:
        """The last line."""
        return f"{self.name}: {self.passed}/{len(self.lines)} checks passed"


def safely(act: Callable[[ExitStack, Checks], T], checks: Checks) -> T | None:
    """Try everything, and remove what that made however it ends; None where it broke off.

    Raises:
        KeyboardInterrupt: Ctrl-C, after everything was removed.
    """
    try:
        with ExitStack() as stack:
            try:
                return act(stack, checks)
            finally:
                # The commands that remove are children of the same terminal: a second Ctrl-C would
                # stop them, and leave behind what they were removing.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except Exception as error:  # noqa: BLE001  # told as a check that failed, after cleaning up
        checks.hold("everything was tried", f"{type(error).__name__}: {error}")
        return None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
