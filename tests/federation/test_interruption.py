"""Somebody pulls the plug: of the rehearsal, softly or hard, or of one hospital's runner."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillroom.server.store.journal import read_events

RESUME_S = 30.0
"""Ten on a quiet machine; this one may be busy."""

Find = Callable[[Path], dict[int, str]]


@dataclass
class Running:
    """A rehearsal that was started and not waited for."""

    out: Path
    process: subprocess.Popen[str]
    find: Find

    def wait_for(self, word: str, timeout_s: float = 120) -> int:
        """The pid of the first process whose command line holds ``word``."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            assert self.process.poll() is None, self.process.communicate()
            for pid, line in self.find(self.out).items():
                if word in line:
                    return pid
            time.sleep(0.1)
        raise TimeoutError(word)

    def left(self, timeout_s: float) -> dict[int, str]:
        """Processes that are still there after a while; those that end meanwhile do not count."""
        end = time.monotonic() + timeout_s
        while (found := self.find(self.out)) and time.monotonic() < end:
            time.sleep(0.2)
        return found


@pytest.fixture
def running(
    tmp_path: Path, rehearse_command: Callable[..., list[str]], processes_of: Find
) -> Iterator[Running]:
    """Four hospitals' worth of processes, on their way."""
    out = tmp_path / "out"
    # A shell's background job ignores Ctrl-C, and so would whatever it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        rehearse_command(out, "--unlabelled", "0", "--labelled", "2", "--held-out", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    yield Running(out, process, processes_of)
    for pid in [process.pid, *processes_of(out)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def test_ctrl_c_stops_everything(running: Running) -> None:
    """Status 130, no traceback, no process; what was recorded stays."""
    running.wait_for("cli courier")
    running.process.send_signal(signal.SIGINT)
    _, errors = running.process.communicate(timeout=40)

    assert running.process.returncode == 130, errors
    assert "Traceback" not in errors
    # One that was being started at that very moment is not stopped by name; it notices by itself.
    assert running.left(25) == {}
    assert (running.out / "study" / "study.json").exists()


def test_kill_9_leaves_no_orphan(running: Running) -> None:
    """The rehearsal cannot stop its children any more; they notice by themselves."""
    running.wait_for("cli courier")
    running.process.kill()
    running.process.communicate()

    assert running.left(25) == {}


def test_a_dead_runner_ends_the_rehearsal(running: Running) -> None:
    """It does not wait for ever for a hospital that is gone: STR-502 names it, and the rest stops."""
    running.wait_for("cli courier")
    os.kill(running.wait_for("cli runner"), signal.SIGKILL)
    _, errors = running.process.communicate(timeout=60)

    assert running.process.returncode == 6, errors
    assert "error STR-502: " in errors
    assert "-runner ended early with status -9" in errors
    assert "\nfix: " in errors
    assert running.left(2) == {}


def test_a_killed_study_process_loses_nothing(running: Running) -> None:
    """Kill -9 in the middle of a round: within seconds another process goes on, and nobody notices."""

    def told(name: str) -> list[dict[str, object]]:
        return [e for _, e in read_events(running.out / "run") if e["event"] == name]

    end = time.monotonic() + 240
    while not told("round.opened"):
        assert running.process.poll() is None, running.process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    killed = study_processes(running.process.pid)
    assert killed
    at = time.time()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    _, errors = running.process.communicate(timeout=300)

    assert running.process.returncode == 0, errors
    resumed = told("study.resumed")
    assert len(resumed) == 1
    assert float(str(resumed[0]["t"])) - at < RESUME_S
    result = json.loads((running.out / "run" / "result.json").read_text())
    assert (result["status"], result["notes"]) == ("completed", [])
    closed = [(e["stage"], e["round"]) for e in told("round.closed")]
    assert len(closed) == len(set(closed)) == 7
    assert running.left(2) == {}


def study_processes(ancestor: int) -> list[int]:
    """Flower's processes of a study below a process; their command line names no folder of ours."""
    parents: dict[int, int] = {}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                )
            except OSError:
                continue
            if b"flwr-serverapp" in line:
                found.append(int(entry.name))

    def below(pid: int) -> bool:
        while pid > 1:
            if pid == ancestor:
                return True
            pid = parents.get(pid, 0)
        return False

    return [pid for pid in found if below(pid)]
