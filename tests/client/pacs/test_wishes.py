"""What may be asked for: lists name studies exactly, queries are narrow, refusals name lines."""

from pathlib import Path

import pytest

from stillroom.client.pacs import wishes
from stillroom.client.pacs.archive import is_match
from stillroom.common.errors import DataError


def test_a_list_keeps_its_line_numbers(tmp_path: Path) -> None:
    """Empty lines and remarks are skipped, doubles asked for once, a byte order mark forgiven."""
    path = tmp_path / "list"
    path.write_text("\ufeff# ours\n\nA-1\n A-2 \nA-1\n", "utf-8")

    found = wishes.of_accessions(path)

    assert [(w.line, dict(w.study)) for w in found] == [
        (3, {"AccessionNumber": "A-1"}),
        (4, {"AccessionNumber": "A-2"}),
    ]


def test_a_table_is_read_by_its_header(tmp_path: Path) -> None:
    """Columns named by keywords count, at study and series level; others and empty cells do not."""
    path = tmp_path / "list.csv"
    path.write_text("Name;AccessionNumber;SeriesInstanceUID\nx;A-1;1.2\ny;A-2;\n")

    first, second = wishes.of_csv(path)

    assert (first.line, dict(first.study), dict(first.series)) == (
        2, {"AccessionNumber": "A-1"}, {"SeriesInstanceUID": "1.2"},
    )  # fmt: skip
    assert dict(second.series) == {}


@pytest.mark.parametrize("line", ["A*", "A?1", "A\\B", "A\tB", "x" * 65])
def test_a_line_that_could_match_more_is_refused(tmp_path: Path, line: str) -> None:
    """By its number; the line itself is not repeated."""
    path = tmp_path / "list"
    path.write_text(f"A-1\n{line}\n")

    with pytest.raises(DataError) as caught:
        wishes.of_accessions(path)

    assert caught.value.code == "STR-447"
    assert "2" in caught.value.what
    assert line not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Name\nx\n",
        "AccessionNumber\n",
        'AccessionNumber\n"A\x00',
        "AccessionNumber,StudyDate\n,2025\n",
    ],
)
def test_tables_that_name_nothing(tmp_path: Path, text: str) -> None:
    """No column, no row or an empty cell is STR-447, not a pull of everything."""
    path = tmp_path / "list.csv"
    path.write_text(text)

    with pytest.raises(DataError) as caught:
        wishes.of_csv(path)
    assert caught.value.code == "STR-447"


@pytest.mark.parametrize("uid", ["", "1.2.*", "abc", "1.2/../3"])
def test_uids_are_uids(uid: str) -> None:
    """They become part of an address: nothing but digits and dots."""
    with pytest.raises(DataError) as caught:
        wishes.of_uids([uid])
    assert caught.value.code == "STR-447"


WIDE = [
    ["ModalitiesInStudy=CT"], ["StudyDescription=*"], ["StudyDescription=a*"], ["StudyDate=2025*"],
    ["StudyDate=20250101-"], ["AccessionNumber="], ["PatientID=?*"], ["SeriesDescription=heart"], [],
]  # fmt: skip


@pytest.mark.parametrize("pairs", WIDE)
def test_a_query_without_bounds_is_refused(pairs: list[str]) -> None:
    """STR-446: it would match a good part of the archive."""
    with pytest.raises(DataError) as caught:
        wishes.of_query(pairs)
    assert caught.value.code == "STR-446"


def test_a_narrow_query_is_taken_apart() -> None:
    """Keys of studies and of series go to their own questions; unknown ones are refused, STR-447."""
    (wish,) = wishes.of_query(
        ["StudyDate=20250101-20250131", "ModalitiesInStudy=CT", "SeriesDescription=*cor*"]
    )

    assert set(wish.study) == {"StudyDate", "ModalitiesInStudy"}
    assert dict(wish.series) == {"SeriesDescription": "*cor*"}
    for wrong in ("Nonsense=1", "AccessionNumber", "ImageComments=x"):
        with pytest.raises(DataError) as caught:
            wishes.of_query([wrong])
        assert caught.value.code == "STR-447"


def test_answers_to_another_question_do_not_count() -> None:
    """An archive that ignores a key answers with everything: what identifies must come back as asked."""
    assert is_match("AccessionNumber", "A-1", "A-1 ")
    assert not is_match("AccessionNumber", "A-1", "A-2")
    assert not is_match("AccessionNumber", "A-1", "")
    assert is_match("StudyDescription", "heart", "")
    assert is_match("StudyDate", "20250101-20250131", "20250115")
    assert is_match("PatientID", "7*", "77")
