"""What hospital IT reads when releases do not fit, and that the courier ends with it."""

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.version import Version

from stillroom.client import compatibility
from stillroom.client.compatibility import require_compatible, version_header
from stillroom.client.connection import Refused, Stating, meaning
from stillroom.client.failures import translate
from stillroom.client.transfer import Transfer
from stillroom.common.errors import ContractError
from stillroom.common.versions import HEADER, own_version


def own(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(compatibility, "own_version", lambda: Version(version))


@pytest.mark.parametrize(
    ("mine", "said", "code", "install"),
    [
        ("0.1.0", {"version": "0.4.1", "oldest_client": "0.3.0"}, "STR-216", "0.4.1"),
        ("2.0.0", {"version": "1.7.0", "oldest_client": "1.0.0"}, "STR-216", "1.7.0"),
        ("0.9.0", {"version": "0.0.9", "oldest_client": "0.0.1"}, "STR-217", "0.0.9"),
    ],
)
def test_the_sentence_names_the_release_to_install(
    monkeypatch: pytest.MonkeyPatch, mine: str, said: dict[str, Any], code: str, install: str
) -> None:
    """Whoever is wrong, hospital IT learns which image to take, and both versions."""
    own(monkeypatch, mine)

    with pytest.raises(ContractError) as caught:
        require_compatible(said, "fl:443")

    assert caught.value.code == code
    assert f"release {install} of the client" in caught.value.fix
    assert mine in caught.value.what


def test_a_server_of_this_release_is_taken_and_so_is_a_silent_one() -> None:
    """Nothing changes for a site whose server is not older than negotiation, or is."""
    assert require_compatible({"known": True}, "fl:443").version == Version("0.1.0")
    about = {"version": str(own_version()), "oldest_client": "0.1.0"}
    assert require_compatible(about, "fl:443").version == own_version()


def test_a_refusal_in_the_middle_of_work_ends_both_kinds_of_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that was upgraded under a running courier is not asked again and again."""
    own(monkeypatch, "0.1.0")
    said = {"code": "STR-216", "version": "0.4.1", "oldest_client": "0.3.0"}
    request = httpx.Request("POST", "https://fl/v1/fleet/pull-messages")
    answer = httpx.Response(426, json=said)

    ours = meaning(Refused(426, "STR-216", said), "fl:443")
    flowers = translate(httpx.HTTPStatusError("no", request=request, response=answer), "fl:443")

    assert isinstance(ours, ContractError)
    assert isinstance(flowers, ContractError)
    assert ours.code == flowers.code == "STR-216"
    assert "0.3.0 or later" in ours.what


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"\xff"])
def test_a_refusal_without_words_is_still_one(body: bytes) -> None:
    """A proxy or a damaged answer may have said 426: the code is the same, nothing crashes."""
    request = httpx.Request("POST", "https://fl/v1/fleet/pull-messages")
    answer = httpx.Response(426, content=body)

    told = translate(httpx.HTTPStatusError("no", request=request, response=answer), "fl:443")

    assert isinstance(told, ContractError)
    assert told.code == "STR-216"


def test_the_courier_ends_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the first question of a courier is looked at before Flower is asked."""
    said: dict[str, Any] = {"known": True, "version": "0.4.1", "oldest_client": "0.3.0"}
    transfer = Transfer("fl:443", lambda: None, threading.Event())  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(transfer, "_ask", lambda *_: said)

    own(monkeypatch, "0.1.0")
    with pytest.raises(ContractError):
        transfer.arrive()
    assert transfer.server_version is None

    own(monkeypatch, "0.3.5")
    assert transfer.arrive() is True
    assert transfer.server_version == "0.4.1"


def test_every_request_of_our_own_states_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, questions, uploads: one place adds the header to all of them."""
    sent: list[bytes] = []
    line = Stating("fl", 443)
    monkeypatch.setattr(line, "send", lambda data: sent.append(bytes(data)))

    line.request("GET", "/v1/stillroom/news", headers={"Range": "bytes=3-"})

    assert f"{HEADER}: {own_version()}\r\n".encode() in b"".join(sent)
    assert version_header() == {HEADER: str(own_version())}


def test_no_client_of_ours_forgets_the_header() -> None:
    """A new kind of request must state the release too; httpx is where that is forgotten."""
    root = Path(compatibility.__file__).parent
    silent = [
        path.name
        for path in root.glob("*.py")
        if (text := path.read_text("utf-8")).count("verify=self.context()")
        > text.count("headers=version_header()")
    ]

    assert silent == []
