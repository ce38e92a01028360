"""Faults of a server that is up, or should be: ports, processes, what the edge shows and hears."""

import contextlib
import json
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

from place import HOST, SITE, Place
from server_paper_faults import certify
from server_place import EDGE, INNER, View, running_run, server_fault, up, wait_until, want_run


@contextlib.contextmanager
def taken(place: Place, port: int) -> Iterator[None]:
    """Another program at a port of ours, which says nothing."""
    code = (
        "import socket, time\n"
        f"s = socket.create_server(('127.0.0.1', {port}))\n"
        "while True: s.accept()"
    )
    with place.running([sys.executable, "-c", code], "another", port):
        yield


@server_fault("edge port taken", "another program listens", "edge port", "STR-501", "ss -ltnp")
def edge_taken(place: Place, config: Path) -> Iterator[None]:
    """The server cannot start."""
    with taken(place, EDGE):
        yield


@server_fault(
    "edge port taken by TLS", "another machine's certificate is shown", "edge port", "STR-501",
    "ss -ltnp",
)  # fmt: skip
def edge_taken_by_tls(place: Place, config: Path) -> Iterator[None]:
    """A web server, say."""
    script = str(Path(__file__).parent / "stand_ins.py")
    command = [sys.executable, "-P", script, str(EDGE), HOST, "Printers"]
    with place.running(command, "another-tls", EDGE):
        yield


@server_fault("inner port taken", "another program listens", "inner port", "STR-501", "ss -ltnp")
def inner_taken(place: Place, config: Path) -> Iterator[None]:
    """Likewise."""
    with taken(place, INNER):
        yield


@server_fault(
    "`serve` without `execute`", "the first is up, the second is not", "processes", "STR-502",
    "stillroom-server execute",
)  # fmt: skip
def no_execute(place: Place, config: Path) -> Iterator[None]:
    """Sites connect, and no study goes on."""
    with up(place, config, execute=False):
        yield


@server_fault(
    "`execute` without `serve`", "both up, the first killed", "processes", "STR-502",
    "stillroom-server serve",
)  # fmt: skip
def no_serve(place: Place, config: Path) -> Iterator[None]:
    """Nobody reaches it."""
    with up(place, config) as serve:
        serve.kill()
        serve.wait()
        yield


@server_fault("edge does not answer", "`serve` stopped (SIGSTOP)", "edge port", "STR-520", "log")
def hangs(place: Place, config: Path) -> Iterator[None]:
    """It has its ports, and says nothing."""
    with up(place, config) as serve:
        serve.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            serve.send_signal(signal.SIGCONT)


@server_fault(
    "certificate renewed, not shown", "a new file under a `serve` that is up", "edge port", "STR-201",
    "Start `serve` again", outcome="warning",
)  # fmt: skip
def not_restarted(place: Place, config: Path) -> Iterator[None]:
    """It reads its certificate when it starts."""
    with up(place, config):
        certify(config)
        yield


@server_fault(
    "name not in the certificate", "a handshake for another name", "server names", "STR-201",
    "other.stillroom.test", "renew-certificate", outcome="warning",
)  # fmt: skip
def other_name(place: Place, config: Path) -> Iterator[None]:
    """That sites were told to dial."""
    with up(place, config):
        context = ssl.create_default_context(cafile=str(config.parent / "ca.pem"))
        with (
            contextlib.suppress(ssl.SSLError),
            socket.create_connection(("127.0.0.1", EDGE), 10) as plain,
        ):
            context.wrap_socket(plain, server_hostname="other.stillroom.test").close()
        path = config.parent / "state" / "edge" / "edge.json"
        wait_until(lambda: json.loads(path.read_bytes())["names_dialled"])
        yield


@server_fault(
    "study changed", "one letter of study.json, under a run that goes on", "studies", "STR-209",
    "another one",
)  # fmt: skip
def changed(place: Place, config: Path) -> Iterator[None]:
    """After it was signed."""
    run = want_run(place, config)
    with up(place, config):
        wait_until(lambda: running_run(run))
        path = run.study / "study.json"
        path.write_text(path.read_text("utf-8").replace('"seed":0', '"seed":1'), "utf-8")
        yield


@server_fault(
    "quorum not there", "one site needed, none came; `faketime`, two hours later", "quorum", "STR-306",
    "are connected", SITE, outcome="warning",
)  # fmt: skip
def nobody_here(place: Place, config: Path) -> Iterator[View]:
    """The run waits, and nobody comes."""
    run = want_run(place, config)
    with up(place, config):
        wait_until(lambda: running_run(run))
        yield View(before=("faketime", "-f", "+2h"))


@server_fault(
    "serve killed in a round's wait", "SIGKILL to both while a run goes on", "runs", "", "execute",
    outcome="warning",
)  # fmt: skip
def killed(place: Place, config: Path) -> Iterator[None]:
    """As the kernel does where memory ends."""
    run = want_run(place, config)
    with up(place, config) as serve:
        wait_until(lambda: running_run(run))
        serve.kill()
        serve.wait()
    wait_until(lambda: not running_run(run))
    yield
