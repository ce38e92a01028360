"""Files of weights between a site and a real edge, over lines that break."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillroom.client import cargo
from stillroom.client.breaks import Stopped
from stillroom.common.errors import StillroomError, TrustError
from stillroom.server import depot_api, upload
from stillroom.server.site_api import PREFIX
from stillroom.server.starts import last_start

MIB = 1 << 20
STUDY = "ab" * 32


def test_there_and_back(edge: Any, transfer: Any, blob: Any, tmp_path: Path) -> None:
    """What is sent is what is received and what is fetched; nothing is sent twice."""
    there, file, got = transfer(edge.port), blob(3 * MIB + 17), tmp_path / "models" / "got"

    assert there.send(file.sha256, file.path, file.nbytes) == file.nbytes
    assert there.send(file.sha256, file.path, file.nbytes) == 0
    received = edge.depot.received("north", file.sha256)
    assert received.read_bytes() == file.path.read_bytes()

    edge.depot.publish(STUDY, received, file.sha256)
    assert there.fetch(file.sha256, file.nbytes, got) == file.nbytes
    assert got.read_bytes() == file.path.read_bytes()
    assert [path.name for path in got.parent.iterdir()] == ["got"]
    traffic = edge.record.sites["north"]
    assert file.nbytes <= traffic.bytes_in < file.nbytes + 1000
    assert file.nbytes < traffic.bytes_out < file.nbytes + 1000


def test_upload_goes_on_after_cuts(edge: Any, line: Any, transfer: Any, blob: Any) -> None:
    """Three cuts: what the server has is not sent again."""
    file = blob()
    line.up = [2 * MIB, 2 * MIB, MIB]

    went = transfer(line.port).send(file.sha256, file.path, file.nbytes)

    assert edge.depot.received("north", file.sha256).read_bytes() == file.path.read_bytes()
    assert line.up == []
    assert went - file.nbytes <= 3 * MIB  # what was in flight, thrice


def test_download_goes_on_after_cuts(
    edge: Any, line: Any, transfer: Any, blob: Any, tmp_path: Path
) -> None:
    """Three cuts: what is here is not asked for again, and the digest is over the whole."""
    file = blob()
    edge.depot.publish(STUDY, file.path, file.sha256)
    line.down = [2 * MIB, 2 * MIB, MIB]

    came = transfer(line.port).fetch(file.sha256, file.nbytes, tmp_path / "got")

    assert (tmp_path / "got").read_bytes() == file.path.read_bytes()
    assert line.down == []
    assert came == file.nbytes  # bytes that were lost in flight are not counted here
    assert edge.record.sites["north"].bytes_out - file.nbytes < 12 * MIB


def test_both_ends_may_restart(
    edge: Any, line: Any, transfer: Any, blob: Any, stop: threading.Event, tmp_path: Path
) -> None:
    """A new process on either side finds what the old one had carried."""
    file, got = blob(), tmp_path / "got"
    edge.depot.publish(STUDY, file.path, file.sha256)
    line.up, line.down = [3 * MIB], [3 * MIB]
    first = transfer(line.port, check=stop.set)  # called when the line breaks
    with pytest.raises(Stopped):
        first.send(file.sha256, file.path, file.nbytes)
    stop.clear()
    with pytest.raises(Stopped):
        first.fetch(file.sha256, file.nbytes, got)
    stop.clear()
    edge.stop()
    edge.start()

    second = transfer(edge.port)
    assert 0 < second.send(file.sha256, file.path, file.nbytes) < 7 * MIB
    assert 0 < second.fetch(file.sha256, file.nbytes, got) < 7 * MIB

    assert edge.depot.received("north", file.sha256).read_bytes() == file.path.read_bytes()
    assert got.read_bytes() == file.path.read_bytes()


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * MIB, b"x" * (2 * MIB)])
def test_a_damaged_part_is_fetched_again(
    edge: Any, transfer: Any, blob: Any, tmp_path: Path, left: bytes
) -> None:
    """What an earlier attempt left is not trusted: shorter, as long, or longer."""
    file, got = blob(MIB), tmp_path / "got"
    edge.depot.publish(STUDY, file.path, file.sha256)
    (tmp_path / "got.part").write_bytes(left)

    transfer(edge.port).fetch(file.sha256, file.nbytes, got)

    assert got.read_bytes() == file.path.read_bytes()


def test_wrong_bytes_are_thrown_away(edge: Any, transfer: Any, blob: Any, tmp_path: Path) -> None:
    """A file that is not what its name says is kept by neither side."""
    file, other = blob(MIB), blob(MIB, seed=1)
    with pytest.raises(StillroomError) as caught:
        transfer(edge.port).send(other.sha256, file.path, file.nbytes)
    assert caught.value.code == "STR-311"
    assert edge.depot.have("north", other.sha256) == (0, False)

    edge.depot.publish(STUDY, file.path, other.sha256)
    with pytest.raises(StillroomError) as caught:
        transfer(edge.port).fetch(other.sha256, file.nbytes, tmp_path / "got")
    assert caught.value.code == "STR-311"
    assert not list(tmp_path.glob("got*"))


@pytest.mark.parametrize(("nbytes", "code"), [(17 * MIB, "STR-312"), (MIB + 1, "STR-311")])
def test_sizes_are_what_they_were_said_to_be(
    edge: Any, transfer: Any, blob: Any, tmp_path: Path, nbytes: int, code: str
) -> None:
    """Too large for the server, or another size than announced: nothing is carried."""
    file = blob(MIB)
    edge.depot.publish(STUDY, file.path, file.sha256)
    there = transfer(edge.port)
    act: Callable[[], int] = (
        (lambda: there.send(file.sha256, file.path, nbytes))
        if code == "STR-312"
        else (lambda: there.fetch(file.sha256, nbytes, tmp_path / "got"))
    )
    with pytest.raises(StillroomError) as caught:
        act()
    assert caught.value.code == code
    assert not (tmp_path / "got").exists()


def test_what_is_not_there(edge: Any, transfer: Any, tmp_path: Path) -> None:
    """A file that was never published, or is no more, is an error with a code, not a wait."""
    with pytest.raises(StillroomError) as caught:
        transfer(edge.port).fetch("ab" * 32, 5, tmp_path / "got")
    assert caught.value.code == "STR-311"


def test_full_disk_at_the_server(
    edge: Any, transfer: Any, blob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload waits, and goes on from where it stood once there is room."""
    file, fail, written, real = blob(4 * MIB), threading.Event(), [0], upload.write

    def write(descriptor: int, view: Any) -> int:
        if written[0] >= 2 * MIB and not fail.is_set():
            threading.Timer(0.3, fail.set).start()
            raise OSError(28, "No space left on device")
        count = real(descriptor, view[:400_000])  # short writes happen, too
        written[0] += count
        return count

    monkeypatch.setattr(upload, "write", write)
    went = transfer(edge.port).send(file.sha256, file.path, file.nbytes)

    assert edge.depot.received("north", file.sha256).read_bytes() == file.path.read_bytes()
    assert written[0] == file.nbytes
    assert went < 8 * MIB


def test_full_disk_at_the_site(
    edge: Any, transfer: Any, blob: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told with a code and a fix; not taken for a broken line and tried for ever."""
    file = blob(MIB)
    edge.depot.publish(STUDY, file.path, file.sha256)

    def write(descriptor: int, view: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cargo, "write", write)

    with pytest.raises(StillroomError) as caught:
        transfer(edge.port).fetch(file.sha256, file.nbytes, tmp_path / "got")
    assert caught.value.code == "STR-503"


def test_a_slow_disk_holds_the_sender_back(
    edge: Any, transfer: Any, blob: Any, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written, the server takes in a few pieces and no more."""
    file, go, real = blob(16 * MIB), threading.Event(), upload.write

    def write(descriptor: int, view: Any) -> int:
        go.wait(10)
        return real(descriptor, view)

    monkeypatch.setattr(upload, "write", write)
    sending = threading.Thread(
        target=transfer(edge.port).send, args=(file.sha256, file.path, file.nbytes)
    )
    sending.start()
    time.sleep(0.7)
    taken = edge.record.sites["north"].bytes_in
    go.set()
    sending.join(20)

    assert depot_api.PIECE <= taken < 8 * depot_api.PIECE
    assert edge.depot.received("north", file.sha256) is not None


def test_a_revoked_site_is_cut_in_the_middle(
    edge: Any, transfer: Any, blob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its upload ends within a second and is not taken up again."""
    file, real = blob(16 * MIB), upload.write

    def write(descriptor: int, view: Any) -> int:
        edge.members.out.add("north")
        time.sleep(0.1)
        return real(descriptor, view[:100_000])

    monkeypatch.setattr(upload, "write", write)
    with pytest.raises(TrustError) as caught:
        transfer(edge.port).send(file.sha256, file.path, file.nbytes)

    assert caught.value.code == "STR-206"
    assert edge.record.refused["cut-revoked"] >= 1
    assert edge.depot.received("north", file.sha256) is None


def test_a_revoked_site_that_comes_back_learns_why(
    edge: Any, papers: Path, blob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late its request is, which is refused like any other of it; then the line is cut."""
    file = blob(1000)
    edge.members.out.add("north")
    context = ssl.create_default_context(cafile=str(papers / "ca.pem"))
    context.load_cert_chain(papers / "north.pem", papers / "north.key")
    head = (
        f"PUT {PREFIX}upload/{file.sha256}?offset=0&total={file.nbytes} HTTP/1.1\r\nhost: edge\r\n"
        f"content-length: {file.nbytes}\r\n\r\n"
    )

    def connected() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", edge.port), 10)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    with connected() as tls:
        time.sleep(0.4)  # the edge has looked at its connections many times
        tls.sendall(head.encode("ascii") + file.path.read_bytes())
        answer = b"".join(iter(lambda: tls.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.endswith(b"revoked")
    assert edge.depot.received("north", file.sha256) is None
    assert "cut-revoked" not in edge.record.refused

    monkeypatch.setattr("stillroom.server.edge.REFUSED_S", 0.1)
    with connected() as tls, contextlib.suppress(ConnectionError):
        assert tls.recv(1) == b""
    assert edge.record.refused["cut-revoked"] == 1


def test_a_server_of_another_consortium(edge: Any, transfer: Any, blob: Any) -> None:
    """STR-201 at once, and not a byte of the file."""
    file = blob(MIB)
    with pytest.raises(TrustError) as caught:
        transfer(edge.port, ca="foreign").send(file.sha256, file.path, file.nbytes)
    assert caught.value.code == "STR-201"


def test_through_a_proxy(
    edge: Any, line: Any, transfer: Any, blob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONNECT with a password; TLS goes through unbroken; a refusal is told as the proxy's."""
    file, line.connect = blob(MIB), True
    there = transfer(edge.port)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{line.port}")
    assert there.send(file.sha256, file.path, file.nbytes) == file.nbytes
    assert line.asked[0].startswith(f"CONNECT 127.0.0.1:{edge.port} ".encode())
    assert b"Basic bWU6cEBzcw==" in line.asked[0]

    there.close()
    line.refuse = "407 Proxy Authentication Required"
    with pytest.raises(StillroomError, match="user name and password") as caught:
        there.arrive()
    assert caught.value.code == "STR-506"

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    there.arrive()
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    there.close()
    with pytest.raises(StillroomError) as caught:
        there.arrive()
    assert caught.value.code == "STR-506"


def test_arrivals_differ(edge: Any, transfer: Any) -> None:
    """Each start of a courier is another one, and says nothing about other sites."""
    folder, seen = edge.folder / "arrivals", []
    for _ in range(2):
        transfer(edge.port).arrive()
        seen.append(last_start(folder, "north"))

    assert len({"", *seen}) == 3
    assert last_start(folder, "south") == ""


def test_stop_ends_the_waiting(transfer: Any, edge: Any, stop: threading.Event) -> None:
    """A courier that is told to stop does not wait for a server that is away."""
    edge.stop()
    there = transfer(edge.port)
    threading.Timer(0.3, stop.set).start()
    begin = time.monotonic()
    with pytest.raises(Stopped):
        there.arrive()
    assert time.monotonic() - begin < 5
    edge.start()
