"""The courier's reading of a failed call, and how little it keeps."""

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError

from stillroom.client import carriage
from stillroom.client.breaks import Expired, RunEnded, RunnerLost, Stopped
from stillroom.client.carriage import Carriage
from stillroom.client.config import SiteConfig
from stillroom.client.courier import CourierSettings
from stillroom.client.failures import translate
from stillroom.client.fleet import RETRY_MOST_S, Edge, Forgotten
from stillroom.client.outgoing import Outgoing
from stillroom.client.sockets import loopback_listener
from stillroom.common.errors import ConfigError, ResourceError, StillroomError, TrustError
from stillroom.common.pki.files import write_certificate, write_key
from stillroom.common.pki.issue import issue_site, make_ca, new_key

REQUEST = httpx.Request("POST", "https://fl.example.org/v1/fleet/pull-messages")


def status(code: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(code))


@pytest.mark.parametrize("code", [502, 503, 504])
def test_a_restarting_server_is_waited_out(code: int) -> None:
    """Whatever stands before it says so; it will be back."""
    assert translate(status(code), "fl:443") is None


@pytest.mark.parametrize(
    "text",
    [
        "[Errno 111] Connection refused",
        "Server disconnected without sending a response.",
        "timed out",
        "[Errno -2] Name or service not known",
        "[Errno 101] Network is unreachable",
    ],
)
def test_a_dropped_line_is_waited_out(text: str) -> None:
    """Networks of hospitals have bad days; none of these ends the courier."""
    assert translate(httpx.ConnectError(text), "fl:443") is None


@pytest.mark.parametrize(
    ("error", "code", "who"),
    [
        (status(401), "STR-206", "registered"),
        (status(412), "STR-206", "registered"),
        (
            httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
            "STR-201",
            "CA file",
        ),
        (
            httpx.ConnectError("certificate verify failed: Hostname mismatch, certificate is"),
            "STR-201",
            "server's name",
        ),
        (
            httpx.ReadError("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert"),
            "STR-201",
            "has not expired",
        ),
        (
            httpx.ReadError("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca"),
            "STR-201",
            "has not expired",
        ),
    ],
)
def test_what_trying_again_does_not_mend(error: httpx.HTTPError, code: str, who: str) -> None:
    """Each ends the courier with a code and says whose turn it is."""
    failure = translate(error, "fl:443")

    assert isinstance(failure, TrustError)
    assert failure.code == code
    assert who in failure.fix


def test_the_rest_of_the_table() -> None:
    """403 is Flower's word for a run that is over; anything else is a mistake of ours."""
    assert isinstance(translate(status(403), "fl:443"), RunEnded)
    bug = status(422)
    assert translate(bug, "fl:443") is bug


@pytest.fixture
def settings(tmp_path: Path) -> CourierSettings:
    """A site's papers, and a server that is not there."""
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    ca, ca_key = make_ca("Example consortium", 2, now)
    key = new_key()
    write_certificate(tmp_path / "ca.pem", ca)
    write_certificate(tmp_path / "site.pem", issue_site(ca, ca_key, key.public_key(), "north", now))
    write_key(tmp_path / "site.key", key)
    return CourierSettings(
        server="127.0.0.1:9",
        ca=tmp_path / "ca.pem",
        certificate=tmp_path / "site.pem",
        private_key=tmp_path / "site.key",
        runtime_port=9094,
        secret=b"s",
        agreement=None,  # type: ignore[arg-type]  # the connection alone does not look at it
        state=tmp_path / "courier",
        exchange=tmp_path / "exchange",
        study=tmp_path / "study",
    )


def test_waiting_ends_when_told(settings: CourierSettings) -> None:
    """A courier that waits for its server stops at once, not after its next pause."""
    stop = threading.Event()
    edge = Edge(settings, stop)
    threading.Timer(0.3, stop.set).start()

    with pytest.raises(Stopped):
        edge.activate()
    edge.close()
    assert 1 <= RETRY_MOST_S <= 2  # a server that is back is found within seconds


@pytest.mark.parametrize(("refusals", "known"), [(3, True), (1000, False)])
def test_a_site_that_was_approved_a_moment_ago(
    settings: CourierSettings, monkeypatch: pytest.MonkeyPatch, refusals: int, known: bool
) -> None:
    """The server's list of keys follows the registry within a second; that second is waited out."""
    monkeypatch.setattr("stillroom.client.newcomer.PATIENCE_S", 2.0)
    edge, asked = Edge(settings, threading.Event()), list[object]()

    def activate(request: object) -> object:
        asked.append(request)
        if len(asked) <= refusals:
            raise status(412)
        return SimpleNamespace(node_id=7)

    monkeypatch.setattr(edge._client, "ActivateNode", activate)
    if known:
        edge.activate()
        assert edge.node.node_id == 7
    else:
        with pytest.raises(TrustError) as caught:
            edge.activate()
        assert caught.value.code == "STR-206"
        assert 2 <= len(asked) <= 20
    monkeypatch.setattr(edge._client, "DeactivateNode", lambda request: None)
    edge.close()


def test_a_courier_that_was_killed_is_waited_for(
    settings: CourierSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it says first that it has started; a server that knows the key is asked again."""
    monkeypatch.setattr("stillroom.client.newcomer.PATIENCE_S", 0.0)
    monkeypatch.setattr("stillroom.client.fleet.AGAIN_S", 0.05)
    told = list[str]()

    def arrive() -> bool:
        told.append("arrived")
        return True

    def activate(request: object) -> object:
        told.append("asked")
        if len(told) < 6:
            raise status(412)
        return SimpleNamespace(node_id=7)

    edge = Edge(settings, threading.Event(), arrive=arrive)
    monkeypatch.setattr(edge._client, "ActivateNode", activate)
    monkeypatch.setattr(edge._client, "DeactivateNode", lambda request: None)
    edge.activate()
    assert told == ["arrived", "asked"] * 3

    monkeypatch.setattr("stillroom.client.fleet.ADMISSION_S", 0.1)
    told.clear()
    monkeypatch.setattr(edge._client, "ActivateNode", Mock(side_effect=status(412)))
    with pytest.raises(TrustError) as caught:
        edge.activate()
    assert caught.value.code == "STR-206"
    assert 2 <= len(told) <= 4
    edge.close()


def test_a_server_that_has_started_anew_is_joined_again(
    settings: CourierSettings, monkeypatch: pytest.MonkeyPatch, inside_a_task: None
) -> None:
    """Its node and its runs are unknown: what is carried is dropped, and the next look joins."""
    nodes, life = iter([7, 8]), SimpleNamespace(node=7)
    edge = Edge(settings, threading.Event(), arrive=lambda: True)
    message = Message(RecordDict(), 7, "train.round")

    def call(request: Any) -> Any:
        if request.node.node_id != life.node:
            raise status(401)
        found = [message_to_proto(message)] if life.node == 7 else []
        return SimpleNamespace(messages_list=found, message_object_trees=["tree"])

    client: Any = edge._client
    monkeypatch.setattr(
        client, "ActivateNode", lambda request: SimpleNamespace(node_id=next(nodes))
    )
    monkeypatch.setattr(client, "DeactivateNode", lambda request: None)
    for name in ("PullMessages", "SendNodeHeartbeat", "PullObject", "PushMessages"):
        monkeypatch.setattr(client, name, call)
    edge.activate()
    assert edge.pull() is not None

    life.node = 8
    with pytest.raises(RunEnded):  # the carriage then withholds what it holds
        edge.pull_object(1, "a")
    assert edge.pull() is None
    assert edge.node.node_id == 8
    with pytest.raises(Forgotten):  # still of the life that is over
        edge.pull_object(1, "a")
    edge.close()


def test_who_trains_joins_again_too(
    settings: CourierSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that asks for nothing for an hour hears of the new life by its heartbeat."""
    edge = Edge(settings, threading.Event(), arrive=lambda: True)
    nodes = iter([7, 8])
    client: Any = edge._client
    monkeypatch.setattr(
        client, "ActivateNode", lambda request: SimpleNamespace(node_id=next(nodes))
    )
    monkeypatch.setattr(client, "SendNodeHeartbeat", Mock(side_effect=status(401)))
    monkeypatch.setattr(client, "DeactivateNode", lambda request: None)
    edge.activate()
    edge.heartbeat()
    assert edge.node.node_id == 8
    edge.close()


def test_a_site_that_is_out_is_told_so(
    settings: CourierSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """401 to everything: joining again is tried, refused, and ends the courier."""
    monkeypatch.setattr("stillroom.client.newcomer.PATIENCE_S", 0.0)
    edge = Edge(settings, threading.Event(), arrive=lambda: True)
    client: Any = edge._client
    monkeypatch.setattr(client, "ActivateNode", lambda request: SimpleNamespace(node_id=7))
    monkeypatch.setattr(client, "DeactivateNode", lambda request: None)
    monkeypatch.setattr(client, "PullMessages", Mock(side_effect=status(401)))
    edge.activate()
    with pytest.raises(TrustError) as caught:  # Flower admits it, and knows it not: no end to it
        edge.pull()
    assert caught.value.code == "STR-206"

    monkeypatch.setattr(client, "ActivateNode", Mock(side_effect=status(401)))
    with pytest.raises(TrustError) as caught:
        edge.pull()
    assert caught.value.code == "STR-206"
    edge.close()


def test_key_of_another_certificate(settings: CourierSettings) -> None:
    """STR-203 before anything is sent."""
    settings.private_key.unlink()
    write_key(settings.private_key, new_key())

    with pytest.raises(TrustError) as caught:
        Edge(settings, threading.Event())
    assert caught.value.code == "STR-203"


def test_key_that_others_can_read(settings: CourierSettings) -> None:
    """STR-202 before anything is sent."""
    settings.private_key.chmod(0o640)

    with pytest.raises(TrustError) as caught:
        Edge(settings, threading.Event())
    assert caught.value.code == "STR-202"


@pytest.mark.parametrize("name", ["ca", "certificate", "private_key"])
@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_papers_that_are_no_papers(
    settings: CourierSettings, name: str, content: bytes | None
) -> None:
    """A missing or broken file is one of ours to explain, not OpenSSL's."""
    path: Path = getattr(settings, name)
    path.unlink()
    if content is not None:
        path.touch(0o600)
        path.write_bytes(content)

    with pytest.raises(StillroomError) as caught:
        Edge(settings, threading.Event())
    assert isinstance(caught.value, ConfigError)
    assert caught.value.code == "STR-101"


def test_runtime_port_in_use() -> None:
    """STR-501 with the port and the key to change."""
    first = loopback_listener(0)
    first.listen()
    port = first.getsockname()[1]

    with first, pytest.raises(ResourceError) as caught:
        loopback_listener(port)
    assert caught.value.code == "STR-501"
    assert str(port) in caught.value.what
    assert "runtime_port" in caught.value.fix


def test_shared_secret(tmp_path: Path) -> None:
    """Absent, empty or open to others: each is refused, and the secret is never repeated."""
    config = SiteConfig.model_construct(runner_secret=tmp_path / "runner.secret")
    with pytest.raises(ConfigError):
        config.read_secret()

    config.runner_secret.write_bytes(b"hunter2")
    config.runner_secret.chmod(0o640)
    with pytest.raises(TrustError) as caught:
        config.read_secret()
    assert caught.value.code == "STR-202"
    assert "hunter2" not in str(caught.value)

    tmp_path.chmod(0o2750)  # a folder that two accounts share by their group
    assert config.read_secret() == b"hunter2"
    config.runner_secret.chmod(0o644)
    with pytest.raises(TrustError):
        config.read_secret()
    tmp_path.chmod(0o750)
    config.runner_secret.chmod(0o600)
    assert config.read_secret() == b"hunter2"
    config.runner_secret.write_bytes(b"")
    with pytest.raises(ConfigError):
        config.read_secret()


GOOD = """
site = "north"
server = "fl.example.org:443"
data = ["scans"]
state = "state"
study = "study"
[tls]
ca = "ca.pem"
certificate = "site.pem"
private_key = "site.key"
"""


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("site =", "stie ="), "stie"),
        (('"north"', '"hunter2!"'), "site"),
        (('"fl.example.org:443"', '"hunter2"'), "server"),
        (('data = ["scans"]', "data = []"), "data"),
        (('"scans"', "7"), "data.0"),
        (('ca = "ca.pem"', ""), "tls.ca"),
        (("[tls]", "runtime_port = 0\n[tls]"), "runtime_port"),
        (("[tls]", 'device = "hunter2"\n[tls]'), "device"),
        (("[tls]", "keep_pseudo_labels_days = 90\n[tls]"), "keep_pseudo_labels_days"),
    ],
)
def test_site_toml_names_keys_not_values(tmp_path: Path, change: tuple[str, str], key: str) -> None:
    """STR-102 with the key; a value may be a password in the wrong line."""
    path = tmp_path / "site.toml"
    path.write_text(GOOD.replace(*change))

    with pytest.raises(ConfigError) as caught:
        SiteConfig.load(path)
    assert caught.value.code == "STR-102"
    assert key in caught.value.what
    assert "hunter2" not in str(caught.value)


def test_site_toml_paths_start_at_the_file(tmp_path: Path) -> None:
    """Whoever starts the process from wherever means the same folders."""
    path = tmp_path / "site.toml"
    path.write_text(GOOD)
    config = SiteConfig.load(path)

    assert config.data == (tmp_path / "scans",)
    assert config.tls.private_key == tmp_path / "site.key"
    assert config.exchange == tmp_path / "exchange"
    assert config.courier_state == tmp_path / "courier"
    shutil.rmtree(tmp_path)
    with pytest.raises(ConfigError) as caught:
        SiteConfig.load(path)
    assert caught.value.code == "STR-101"


class Withholding:
    """A store that was promised an object which never comes."""

    def get(self, _name: str) -> bytes:
        """Flower's word for: not yet."""
        return b""


def test_runner_that_dies_in_the_middle_of_its_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """The courier neither waits for ever nor ignores that it was told to stop."""
    stop = threading.Event()
    monkeypatch.setattr(carriage, "DELIVERY_S", 0.1)
    one = Carriage(None, None, Withholding(), None, None, None, stop)  # type: ignore[arg-type]
    task = SimpleNamespace(look_after=lambda: False)
    asked = SimpleNamespace(metadata=SimpleNamespace(created_at=time.time(), ttl=60.0))
    request = SimpleNamespace(message=asked)

    with pytest.raises(Expired):
        one._arriving(request, task, "a")  # type: ignore[arg-type]
    task.look_after = lambda: True
    with pytest.raises(RunnerLost):
        one._arriving(request, task, "a")  # type: ignore[arg-type]
    stop.set()
    with pytest.raises(Stopped):
        one._arriving(request, task, "a")  # type: ignore[arg-type]


def test_a_log_that_was_rewritten_ends_all_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is handed to the runner, answered or even confirmed; models may come meanwhile."""
    done: list[str] = []

    def touch(name: str) -> object:
        return lambda *_: done.append(name)

    def look() -> None:
        raise TrustError("The server's log does not hold.", fix="Look at it.", code="STR-222")

    message = SimpleNamespace(metadata=SimpleNamespace(run_id=1, message_id="a"))
    request = carriage.Request(message, "round", "s", 1)  # type: ignore[arg-type]
    edge = SimpleNamespace(
        pull=lambda: (message, None), confirm=touch("confirm"), push=touch("push")
    )
    models = SimpleNamespace(bring=lambda *_: None, forget_others=lambda *_: None)
    gate = SimpleNamespace(admit=lambda *_: request, turn_away=touch("answer"))
    monkeypatch.setattr(Carriage, "_bring", lambda *_: {})
    one = Carriage(
        edge,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        gate,  # type: ignore[arg-type]
        models,  # type: ignore[arg-type]
        touch("send"),  # type: ignore[arg-type]
        threading.Event(),
        witness=SimpleNamespace(look=look, expect=touch("expect")),
    )

    with pytest.raises(TrustError) as caught:
        one.carry_one()
    assert caught.value.code == "STR-222"
    assert done == []


@pytest.mark.parametrize("gone", [1, 1000])
def test_an_answer_whose_place_is_gone(gone: int) -> None:
    """Where an equal object of another site was there first, announcing again says what is left."""
    done: list[str] = []
    left = iter(range(gone))

    def push(*_: object) -> tuple[set[str], str]:
        done.append("announced")
        return ({"a"} if len(done) < 2 * gone else set()), "session"

    def push_object(run_id: int, session: str, name: str, content: bytes) -> None:
        done.append("given")
        if next(left, None) is not None:
            raise ObjectPushError(name, run_id, session)

    edge = SimpleNamespace(push=push, push_object=push_object)
    one = Carriage(edge, None, None, None, None, None, threading.Event())  # type: ignore[arg-type]
    message = SimpleNamespace(metadata=SimpleNamespace(run_id=1))
    one._send(Outgoing(message, None, {"a": b"a"}), 0.0)  # type: ignore[arg-type]

    assert done == (
        ["announced", "given", "announced"] if gone == 1 else ["announced", "given"] * 3
    )


def test_a_task_that_was_withdrawn_while_it_was_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped, and the courier goes on; the server asks again when it still wants it."""

    def bring(*_: object) -> dict[str, bytes]:
        raise ObjectPullError("a", "the object could not be found.")

    message = SimpleNamespace(metadata=SimpleNamespace(run_id=1, message_id="a"))
    monkeypatch.setattr(Carriage, "_bring", bring)
    monkeypatch.setattr(carriage, "Request", lambda message: message)
    edge = SimpleNamespace(pull=lambda: (message, None))
    one = Carriage(edge, None, None, None, None, None, threading.Event())  # type: ignore[arg-type]

    assert one.carry_one()
