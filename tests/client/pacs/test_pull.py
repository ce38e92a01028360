"""A pull from a real Orthanc: what lies on disk afterwards, and after kills, faults and second runs."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from stillroom.client.intake.index import scan
from stillroom.client.pacs import wishes
from stillroom.client.pacs.archive import Series
from stillroom.client.pacs.failures import failure
from stillroom.client.pacs.hours import Window
from stillroom.client.pacs.journal import opened
from stillroom.client.pacs.opening import open_archive
from stillroom.client.pacs.pull import Pull, Rhythm, Summary
from stillroom.client.pacs.section import PacsSection

MakeSeries = Callable[..., Sequence[Dataset]]
AT_ONCE = Rhythm(sleep=lambda _: None, pauses_s=(0.0,))
WAYS = ("web", "move", "get")


def pull(pacs: PacsSection, asked: Sequence[wishes.Wish], rhythm: Rhythm = AT_ONCE) -> Summary:
    with opened(pacs.state) as (journal, key):
        archive = open_archive(pacs)
        try:
            return Pull(archive, pacs, journal, key, rhythm=rhythm).run(asked)
        finally:
            archive.close()


def by_accession(folder: Path, *numbers: str) -> list[wishes.Wish]:
    path = folder / "list.txt"
    path.write_text("\n".join(numbers))
    return wishes.of_accessions(path)


def section(orthanc: Any, folder: Path, way: str, **more: Any) -> PacsSection:
    if way == "web":
        return orthanc.web(folder, **more)
    return orthanc.dimse(folder, dimse={"retrieve": way}, **more)


def objects(pacs: PacsSection) -> list[Path]:
    return sorted(path for path in pacs.folder.rglob("*") if path.is_file())


def states(summary: Summary) -> list[tuple[int, str, str]]:
    return [(one.line, one.state, one.code) for one in summary.outcomes]


@pytest.mark.parametrize("way", WAYS)
def test_a_list_is_pulled_without_identity(
    orthanc: Any, tmp_path: Path, ct_series: MakeSeries, way: str
) -> None:
    """Two studies lie whole in the data folder, nameless; intake takes them; a third line is reported."""
    first, second = ct_series(20), ct_series(18, accession="ACC-2", patient="ROE^RICHARD")
    orthanc.put(*first, *second, *ct_series(2, accession="ACC-3"))
    pacs = section(orthanc, tmp_path, way)

    summary = pull(pacs, by_accession(tmp_path, "ACC-1", "# no", "ACC-2", "ACC-9"))

    assert summary.ended is None
    assert states(summary) == [(1, "complete", ""), (3, "complete", ""), (4, "failed", "STR-448")]
    assert len(objects(pacs)) == summary.instances == 38
    raw = b"".join(path.read_bytes() for path in objects(pacs)) + repr(objects(pacs)).encode()
    for one in (*first, *second):
        for value in (one.SOPInstanceUID, one.StudyInstanceUID, one.SeriesInstanceUID, "ACC-"):
            assert value.encode() not in raw
    for word in (b"DOE", b"ROE", b"SECRET", b"Elsewhere", b"Jane", b"1950", b"2025"):
        assert word not in raw
    found = scan(pacs.folder, state=tmp_path / "state")
    assert [entry.findings for entry in found.entries] == [(), ()]
    pixels = {one.PixelData for one in (*first, *second)}
    assert {pydicom.dcmread(path).PixelData for path in objects(pacs)} == pixels


@pytest.mark.parametrize("way", WAYS)
def test_a_second_run_fetches_only_what_is_new(
    orthanc: Any, tmp_path: Path, ct_series: MakeSeries, way: str
) -> None:
    """Nothing is fetched twice; a series that grew at the PACS is completed; a lost file comes back."""
    slices = ct_series(6)
    orthanc.put(*slices[:4])
    pacs, asked = section(orthanc, tmp_path, way), by_accession(tmp_path, "ACC-1")

    assert pull(pacs, asked).instances == 4
    assert states(again := pull(pacs, asked)) == [(1, "already", "")]
    assert again.instances == 0
    orthanc.put(*slices[4:])
    assert pull(pacs, asked).instances == 2
    objects(pacs)[0].unlink()
    assert pull(pacs, asked).instances == 1
    assert len(objects(pacs)) == 6


def test_kept_uids_say_so(orthanc: Any, tmp_path: Path, ct_series: MakeSeries) -> None:
    """Without replacement the objects keep their UIDs and carry code 113110; names are hashes still."""
    slices = ct_series(2)
    orthanc.put(*slices)
    pacs = orthanc.web(tmp_path, uids="retain")

    pull(pacs, by_accession(tmp_path, "ACC-1"))

    read = [pydicom.dcmread(path) for path in objects(pacs)]
    codes = [item.CodeValue for item in read[0].DeidentificationMethodCodeSequence]
    assert {one.SOPInstanceUID for one in read} == {one.SOPInstanceUID for one in slices}
    assert codes == ["113100", "113110"]
    assert slices[0].SOPInstanceUID not in repr(objects(pacs))


def test_as_the_pacs_sent_it(orthanc: Any, tmp_path: Path, ct_series: MakeSeries) -> None:
    """`deidentify = false` writes every value that came."""
    orthanc.put(*ct_series(2))
    pacs = orthanc.web(tmp_path, deidentify=False)

    pull(pacs, by_accession(tmp_path, "ACC-1"))

    assert {pydicom.dcmread(path).PatientID for path in objects(pacs)} == {"SECRET-77"}


def burned(data: Dataset, number: int) -> None:
    if number == 1:
        data.BurnedInAnnotation = "YES"


def capture(data: Dataset, _: int) -> None:
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("edit", [burned, capture], ids=["burned", "capture"])
def test_pictures_are_refused_and_the_rest_comes(
    orthanc: Any, tmp_path: Path, ct_series: MakeSeries, way: str, edit: Any
) -> None:
    """A series with burned-in text leaves nothing behind, is not asked for again, and stops nobody."""
    orthanc.put(*ct_series(3, edit=edit), *ct_series(3, accession="ACC-2"))
    pacs, asked = section(orthanc, tmp_path, way), by_accession(tmp_path, "ACC-1", "ACC-2")

    first, second = pull(pacs, asked), pull(pacs, asked)

    assert states(first) == [(1, "refused", "STR-423"), (2, "complete", "")]
    assert states(second) == [(1, "refused", "STR-423"), (2, "already", "")]
    assert len(objects(pacs)) == 3


def test_other_kinds_are_not_asked_for(orthanc: Any, tmp_path: Path, ct_series: MakeSeries) -> None:
    """A study of which nothing is CT is a line without a match."""

    def magnet(data: Dataset, _: int) -> None:
        data.Modality = "MR"

    orthanc.put(*ct_series(2, edit=magnet))
    pacs = orthanc.web(tmp_path)

    assert states(pull(pacs, by_accession(tmp_path, "ACC-1"))) == [(1, "failed", "STR-448")]


@pytest.mark.parametrize("way", ["web", "dimse"])
def test_a_query_is_bounded(orthanc: Any, tmp_path: Path, ct_series: MakeSeries, way: str) -> None:
    """A date range fetches what it matches; more studies than allowed end the pull before any byte."""
    orthanc.put(*ct_series(2), *ct_series(2, accession="ACC-2"))
    asked = wishes.of_query(["StudyDate=20250101-20250131"])
    narrow = getattr(orthanc, way)(tmp_path, most_studies=1)

    ended = pull(narrow, asked).ended

    assert ended is not None
    assert ended.code == "STR-446"
    assert objects(narrow) == []
    assert pull(narrow.model_copy(update={"most_studies": 2}), asked).instances == 4


class Short:
    """An archive that keeps one instance to itself, ``times`` times."""

    def __init__(self, archive: Any, times: int) -> None:
        self.archive, self.times = archive, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.archive, name)

    def fetch(self, series: Series, wanted: Sequence[str] | None, sink: Any) -> None:
        """All but the last."""
        listed = wanted or self.archive.instances(series)
        short, self.times = self.times > 0, self.times - 1
        self.archive.fetch(series, listed[:-1] if short else listed, sink)


@pytest.mark.parametrize(("times", "expected"), [(1, "complete"), (99, "failed")])
def test_a_wrong_count_is_never_complete(
    orthanc: Any, tmp_path: Path, ct_series: MakeSeries, times: int, expected: str
) -> None:
    """One instance too few is asked for once more; then it is a named failure, and intake sees nothing."""
    orthanc.put(*ct_series(5), *ct_series(2, accession="ACC-2"))
    pacs, asked = orthanc.web(tmp_path), by_accession(tmp_path, "ACC-1")
    with opened(pacs.state) as (journal, key):
        short = Short(open_archive(pacs), times)
        summary = Pull(short, pacs, journal, key, rhythm=AT_ONCE).run(asked)
        short.archive.close()

    assert [one.state for one in summary.outcomes] == [expected]
    entries = scan(pacs.folder, state=tmp_path / "state", min_slices=1).entries
    if expected == "failed":
        assert summary.outcomes[0].code == "STR-449"
        assert not entries
        assert pull(pacs, asked).instances == 1
    else:
        assert len(entries[0].files) == 5


def test_a_pacs_that_goes_away_ends_the_pull(
    orthanc: Any, tmp_path: Path, ct_series: MakeSeries
) -> None:
    """After its pauses the pull ends with STR-440; what was whole stays, the next run takes the rest."""
    orthanc.put(*ct_series(3), *ct_series(3, accession="ACC-2"))
    pacs, asked = orthanc.web(tmp_path), by_accession(tmp_path, "ACC-1", "ACC-2")
    pauses: list[float] = []

    class Gone(Short):
        def fetch(self, series: Series, wanted: Sequence[str] | None, sink: Any) -> None:
            self.times -= 1
            if self.times < 0:
                raise failure("STR-440", "No connection to the PACS.")
            self.archive.fetch(series, wanted, sink)

    rhythm = Rhythm(sleep=pauses.append, pauses_s=(1.0, 2.0))
    with opened(pacs.state) as (journal, key):
        gone = Gone(open_archive(pacs), 1)
        summary = Pull(gone, pacs, journal, key, rhythm=rhythm).run(asked)
        gone.archive.close()

    assert summary.ended is not None
    assert (summary.ended.code, pauses) == ("STR-440", [1.0, 2.0])
    assert states(summary) == [(1, "complete", "")]
    assert states(pull(pacs, asked)) == [(1, "already", ""), (2, "complete", "")]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"calling_ae": "NOBODY"}, "STR-442"),
        ({"called_ae": "OTHER"}, "STR-441"),
        ({"port": 9}, "STR-440"),
    ],
)
def test_a_classic_pacs_that_refuses(
    orthanc: Any, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    """Wrong AE titles and a dead port end a pull with their own codes."""
    ended = pull(orthanc.dimse(tmp_path, dimse=changes), by_accession(tmp_path, "ACC-1")).ended

    assert ended is not None
    assert ended.code == code


def test_a_move_that_reaches_nobody(orthanc: Any, tmp_path: Path, ct_series: MakeSeries) -> None:
    """The PACS delivers to another port than the one opened here: STR-451 says what to enter there."""
    orthanc.put(*ct_series(2))
    other = orthanc.dimse(tmp_path, dimse={"store_port": orthanc.store + 1})

    summary = pull(other, by_accession(tmp_path, "ACC-1"))

    assert summary.ended is not None, summary
    assert summary.ended.code == "STR-451"


def test_wrong_password(orthanc: Any, tmp_path: Path) -> None:
    """401 ends a pull with STR-444."""
    ended = pull(orthanc.web(tmp_path, web={"user": "x"}), by_accession(tmp_path, "A")).ended

    assert ended is not None
    assert ended.code == "STR-444"


def test_the_rate_is_kept(orthanc: Any, tmp_path: Path, ct_series: MakeSeries) -> None:
    """The pauses of a pull make up the time that its bytes may take, but for what it took itself."""
    orthanc.put(*ct_series(6, size=64))
    pauses: list[float] = []
    pacs = orthanc.web(tmp_path, most_mib_per_s=0.001)

    began = time.monotonic()
    summary = pull(pacs, by_accession(tmp_path, "ACC-1"), Rhythm(sleep=pauses.append))
    took = time.monotonic() - began

    due = summary.bytes / (0.001 * 2**20)
    assert due - took - 1 < max(pauses) <= due


def test_closed_hours_are_waited_for(orthanc: Any, tmp_path: Path, ct_series: MakeSeries) -> None:
    """Outside of its hours a pull looks at the clock until they begin; the impatient one ends, STR-450."""
    orthanc.put(*ct_series(2))
    pacs, asked = orthanc.web(tmp_path), by_accession(tmp_path, "ACC-1")
    window, hour = Window.parse("20:00-06:00"), iter(range(17, 24))
    clock = {"at": datetime(2026, 1, 1, 17)}  # noqa: DTZ001  (local time, as on a wall)

    def sleep(_: float) -> None:
        clock["at"] = datetime(2026, 1, 1, next(hour))  # noqa: DTZ001

    impatient = pull(pacs, asked, Rhythm(window, is_patient=False, now=lambda: clock["at"])).ended
    patient = pull(pacs, asked, Rhythm(window, now=lambda: clock["at"], sleep=sleep))

    assert impatient is not None
    assert impatient.code == "STR-450"
    assert clock["at"].hour == 20
    assert patient.instances == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for less than a MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=640k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("A file system cannot be mounted here.")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("way", ["web", "move"])
def test_a_full_disk_ends_the_pull_and_room_goes_on(
    orthanc: Any, tmp_path: Path, small_disk: Path, ct_series: MakeSeries, way: str
) -> None:
    """STR-452, nothing half written, nothing counted as complete; with room the rest alone is fetched."""
    orthanc.put(*ct_series(8, size=256))
    pacs = section(orthanc, tmp_path, way).model_copy(update={"folder": small_disk / "pulled"})
    asked = by_accession(tmp_path, "ACC-1")

    first = pull(pacs, asked)

    assert first.ended is not None
    assert first.ended.code == "STR-452"
    assert 0 < first.instances < 8
    assert not list(small_disk.rglob("*.part"))
    assert not scan(pacs.folder, state=tmp_path / "state").entries
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert pull(pacs, asked).instances == 8 - first.instances


def test_room_is_kept_free(orthanc: Any, tmp_path: Path, ct_series: MakeSeries) -> None:
    """A pull ends before it takes what `keep_free_mib` keeps for others."""
    orthanc.put(*ct_series(2))
    pacs = orthanc.web(tmp_path, keep_free_mib=shutil.disk_usage(tmp_path).total // 2**20)

    ended = pull(pacs, by_accession(tmp_path, "ACC-1")).ended

    assert ended is not None
    assert ended.code == "STR-452"
    assert objects(pacs) == []


SITE = """
site = "north"
server = "nowhere.example:443"
data = ["data"]
state = "state"
study = "study"
[tls]
ca = "ca.pem"
certificate = "site.pem"
private_key = "site.key"
[pacs]
folder = "data/pulled"
keep_free_mib = 0
"""


def write_site(orthanc: Any, folder: Path, way: str, extra: str = "") -> Path:
    """site.toml for the command line."""
    made = section(orthanc, folder, way)
    made_way = made.web or made.dimse
    assert made_way is not None
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in made_way.model_dump(mode="json").items()
        if value is not None
    ]
    table = "[pacs.web]" if made.web else "[pacs.dimse]"
    path = folder / "site.toml"
    path.write_text(SITE + extra + "\n" + "\n".join([table, *lines]))
    return path


def command(site: Path, listed: Path, *more: str) -> list[str]:
    program = [sys.executable, "-P", "-m", "stillroom.client.cli", "data", "pull"]
    return [*program, "--config", str(site), "--accessions", str(listed), *more]


@pytest.mark.parametrize("way", ["web", "move"])
def test_killed_at_any_moment_and_resumed(
    orthanc: Any, tmp_path: Path, ct_series: MakeSeries, way: str
) -> None:
    """Kill -9 in a series: what was written is not fetched again, and nothing else is ever seen by intake."""
    orthanc.put(*ct_series(40), *ct_series(5, accession="ACC-2"))
    site = write_site(orthanc, tmp_path, way, "most_mib_per_s = 0.02")
    listed = tmp_path / "list.txt"
    listed.write_text("ACC-1\nACC-2\n")
    incoming = tmp_path / "data/pulled/.incoming"

    process = subprocess.Popen(
        command(site, listed), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while len(list(incoming.glob("*/*.dcm"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    held = len(list(incoming.glob("*/*.dcm")))
    seen = scan(tmp_path / "data", state=tmp_path / "state", min_slices=1).entries
    site.write_text(site.read_text().replace("most_mib_per_s = 0.02", ""))
    done = subprocess.run(
        command(site, listed, "--json"), capture_output=True, text=True, check=False
    )

    assert 5 <= held < 40
    assert seen == ()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["instances"] == 45 - held
    entries = scan(tmp_path / "data", state=tmp_path / "state", min_slices=1).entries
    assert sorted(len(entry.files) for entry in entries) == [5, 40]
    assert not list(incoming.iterdir())


def test_the_command_line_says_lines_not_numbers(
    orthanc: Any, tmp_path: Path, ct_series: MakeSeries
) -> None:
    """Exit status 5 and the lines that lack a study; no accession number, name or UID on any stream."""
    slices = ct_series(2)
    orthanc.put(*slices)
    listed = tmp_path / "list.txt"
    listed.write_text("SECRET-404\nACC-1\nSECRET-405\n")

    done = subprocess.run(
        command(write_site(orthanc, tmp_path, "web"), listed),
        capture_output=True,
        text=True,
        check=False,
    )
    kept = (tmp_path / "pull/journal.jsonl").read_text()

    assert done.returncode == 5
    assert "STR-448 The PACS holds no study that matches. (lines 1, 3)" in done.stdout
    assert "error STR-448: Missing: 2 of 3 series or lines." in done.stderr
    for text in (done.stdout, done.stderr, kept):
        for secret in ("SECRET", "ACC-1", "DOE", slices[0].StudyInstanceUID):
            assert secret not in text
    assert "Traceback" not in done.stderr
