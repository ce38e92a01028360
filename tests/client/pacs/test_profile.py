"""Our list against the standard's: nothing that PS3.15 table E.1-1 wants gone is kept as it is."""

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom.datadict import keyword_for_tag

from stillroom.client.intake.quality import HOUNSFIELD, LOCALISERS, NOT_TISSUE
from stillroom.client.pacs import profile

LISTED = (
    profile.NUMBERS
    | set(profile.WORDS)
    | profile.UIDS
    | profile.CLASSES
    | profile.SEQUENCES
    | profile.NAMES
    | profile.PIXELS
)


def asked(*groups: str) -> set[str]:
    """Keywords that the table wants treated like this; repeating groups have none."""
    tags = [tag for group in groups for tag in getattr(table, group)]
    assert len(tags) > 0
    return {keyword_for_tag(tag) for tag in tags if len(tag) == 2} - {""}


def test_nothing_kept_that_must_go() -> None:
    """What the table removes, empties or replaces is not in the list, but for what comes back cleaned."""
    gone = asked("X_TAGS", "Z_TAGS", "D_TAGS", "Z_D_TAGS", "X_Z_TAGS", "X_D_TAGS", "X_Z_D_TAGS")

    assert len(gone) > 400
    assert gone & LISTED == {"ROIName"}
    assert "ROIName" in profile.NAMES


def test_every_kept_uid_is_replaced() -> None:
    """UIDs that the table replaces are replaced or removed; sequences keep only replaced ones."""
    replaced = asked("U_TAGS")

    assert replaced & LISTED == profile.UIDS
    assert asked("X_Z_U_STAR_TAGS") & LISTED <= profile.SEQUENCES


def test_emptied_and_dummy_values_are_the_tables() -> None:
    """What stays empty may stay empty, and one word stands where the table asks for a dummy."""
    emptied = {name for names in profile.EMPTY.values() for name in names}
    may_be_empty = asked("Z_TAGS", "Z_D_TAGS", "X_Z_TAGS", "X_TAGS", "X_Z_D_TAGS")
    dummies = {name for values in profile.DUMMY.values() for name in values}

    # These three are in no row of the table; emptied all the same.
    assert (
        emptied - may_be_empty
        == {"Manufacturer", "PositionReferenceIndicator", "ContentDescription"} - may_be_empty
    )
    assert dummies & asked("D_TAGS") == {"StructureSetLabel"}


def test_words_that_decide_about_a_series_stay() -> None:
    """Intake must come to the same verdict before and after."""
    assert profile.WORDS["ImageType"] & profile.WORDS["FrameType"] >= NOT_TISSUE | LOCALISERS
    assert HOUNSFIELD - {""} <= profile.WORDS["RescaleType"]
    assert "OTHER" in profile.WORDS["RescaleType"] & profile.WORDS["PhotometricInterpretation"]
    assert "OTHER" not in HOUNSFIELD
