"""Global models on their way in: from the nearest place, proven, and nothing of a wrong one stays."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from stillroom.client.exchange import ExchangeFolder
from stillroom.client.models import Models
from stillroom.common.encoding import BlobWriter, apply_delta, file_order
from stillroom.common.errors import ContractError
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.messages import Delta, ModelRef
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import serialise

MANIFEST = Manifest(
    tensors=(
        TensorSpec(name="w", shape=(4, 20), dtype="float32", group="g"),
        TensorSpec(name="b", shape=(4,), dtype="float32", group="g"),
    )
)
WEIGHTS = {
    "w": np.linspace(-1, 1, 80, dtype=np.float32).reshape(4, 20),
    "b": np.ones(4, np.float32),
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


FIRST = serialise(WEIGHTS)


def encoded(step: float) -> bytes:
    stream = io.BytesIO()
    writer = BlobWriter(stream, "bf16-delta", MANIFEST)
    for spec in file_order(MANIFEST):
        writer.add(spec.name, np.full(spec.shape, step, np.float32))
    writer.finish()
    return stream.getvalue()


def prepared(initial: str = "0" * 64) -> PreparedStudy:
    study = Study.parse(
        {
            "study": {"name": "models"},
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"v": {"kind": "mask", "classes": ["x"]}},
            "model": {"teacher": {"arch": "dynunet", "channels": [4, 8]}},
            "stage": [
                {
                    "name": "t",
                    "recipe": "teach",
                    "label": "v",
                    "rounds": 3,
                    "exchange": {"encoding": "bf16-delta"},
                }
            ],
        }
    )
    stage = PreparedStage(initial_sha256=initial, manifest=MANIFEST)
    return PreparedStudy(study=study, stages={"t": stage})


class Server:
    """Files by digest, and what was asked for."""

    def __init__(self, *files: bytes) -> None:
        self.files = {digest(data): data for data in files}
        self.asked: list[str] = []

    def fetch(self, sha256: str, nbytes: int, into: Path) -> int:
        """As ``Transfer.fetch``."""
        self.asked.append(sha256)
        data = self.files.get(sha256, b"")
        if len(data) != nbytes:
            raise ContractError("No such file.", fix="Ask.", code="STR-311")
        into.write_bytes(data)
        return nbytes


def models(folder: Path, server: Server, study: PreparedStudy | None = None) -> Models:
    exchange = ExchangeFolder(folder / "exchange").prepare()
    return Models(exchange, study or prepared(), folder / "study", server.fetch, folder / "notes")


def ref(data: bytes, delta: Delta | None = None) -> ModelRef:
    return ModelRef(digest(data), len(data), delta)


def next_model(folder: Path, change: bytes) -> bytes:
    base, into = folder / "a", folder / "b"
    base.write_bytes(FIRST)
    apply_delta(base, io.BytesIO(change), "bf16-delta", MANIFEST, into)
    return into.read_bytes()


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "exchange" / "models").iterdir()}


def test_whole_and_once(tmp_path: Path) -> None:
    """Fetched whole, shown under its name, and never asked for again, by a later process either."""
    server = Server(FIRST)
    path = models(tmp_path, server).bring("t", ref(FIRST))

    assert path.read_bytes() == FIRST
    assert models(tmp_path, server).bring("t", ref(FIRST)) == path
    assert server.asked == [digest(FIRST)]
    assert names(tmp_path) == {path.name}


def test_initial_weights_are_here_already(tmp_path: Path) -> None:
    """The study's own file is copied: nothing crosses the line, and no link leads into the study."""
    server = Server()
    source = tmp_path / "study" / "weights" / f"{digest(FIRST)}.safetensors"
    source.parent.mkdir(parents=True)
    source.write_bytes(FIRST)
    path = models(tmp_path, server, prepared(digest(FIRST))).bring("t", ref(FIRST))

    assert (path.read_bytes(), server.asked) == (FIRST, [])
    assert source.stat().st_nlink == path.stat().st_nlink == 1


def test_a_change_of_what_is_here(tmp_path: Path) -> None:
    """Only the change crosses the line, and the sum has the very bytes of the whole file."""
    change = encoded(0.25)
    second = next_model(tmp_path, change)
    server = Server(FIRST, change)
    own = models(tmp_path, server)
    own.bring("t", ref(FIRST))
    path = own.bring("t", ref(second, Delta(digest(FIRST), digest(change), len(change))))

    assert path.read_bytes() == second
    assert server.asked == [digest(FIRST), digest(change)]
    assert names(tmp_path) == {f"{digest(data)}.safetensors" for data in (FIRST, second)}


@pytest.mark.parametrize("fault", ["absent", "another", "no base", "broken"])
def test_a_change_of_no_use(tmp_path: Path, fault: str) -> None:
    """Whatever is wrong with it, the whole file settles it; nothing of the change stays."""
    change = encoded(0.25)
    second = next_model(tmp_path, change)
    given = {"another": encoded(0.5), "broken": change[:-3] + b"abc"}.get(fault, change)
    server = Server(FIRST, second, *([] if fault == "absent" else [given]))
    own = models(tmp_path, server)
    if fault != "no base":
        own.bring("t", ref(FIRST))
    delta = Delta(digest(FIRST), digest(given), len(given))

    assert own.bring("t", ref(second, delta)).read_bytes() == second
    assert {name.split(".")[1] for name in names(tmp_path)} == {"safetensors"}


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    """STR-301 for a file of the right size whose header is not the manifest's; it is deleted."""
    other = FIRST.replace(b'"b"', b'"c"')
    with pytest.raises(ContractError) as caught:
        models(tmp_path, Server(other)).bring("t", ref(other))
    assert caught.value.code == "STR-301"
    assert names(tmp_path) == set()


def test_a_model_that_somebody_changed(tmp_path: Path) -> None:
    """Seen by the next process, and by this one when the file was written to since."""
    server = Server(FIRST)
    path = models(tmp_path, server).bring("t", ref(FIRST))
    for fresh in (True, False):
        own = models(tmp_path, server)
        if not fresh:
            own.bring("t", ref(FIRST))
        path.write_bytes(FIRST[:-1] + b"x")
        assert own.bring("t", ref(FIRST)).read_bytes() == FIRST
    assert len(server.asked) == 3


def test_what_stays(tmp_path: Path) -> None:
    """The newest two of a stage, over a restart too."""
    files = [serialise({**WEIGHTS, "b": np.full(4, n, np.float32)}) for n in range(4)]
    server = Server(*files)
    for data in files:
        own = models(tmp_path, server)
        own.bring("t", ref(data))
        own.forget_others({"t": ref(data)})
    assert names(tmp_path) == {f"{digest(data)}.safetensors" for data in files[-2:]}


def test_what_is_remembered(tmp_path: Path) -> None:
    """A process that carries a thousand rounds remembers no more than the models that are here."""
    files = [serialise({**WEIGHTS, "b": np.full(4, n, np.float32)}) for n in range(5)]
    own = models(tmp_path, Server(*files))
    for data in files:
        own.bring("t", ref(data))
        own.forget_others({"t": ref(data)})
    assert set(own.proven) == {digest(data) for data in files[-2:]}
