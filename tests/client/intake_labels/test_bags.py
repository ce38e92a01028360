"""Classes of whole scans: from a table to the working copy, and what becomes of wrong rows."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stillroom.client.intake import labels_bags
from stillroom.client.intake.index import scan
from stillroom.client.intake.rules import Rules
from stillroom.client.intake.store import CaseStore
from stillroom.client.intake.working_copy import PrepareReport, prepare
from stillroom.client.recipes.cohort import inventory
from stillroom.common.errors import DataError
from stillroom.common.study import BagLabel, Study

RULES = Rules.model_validate(
    {"labels": {"burden": {"files": "report.csv", "classes": {"none": "0", "some": 1}}}}
)
BURDEN = BagLabel(kind="bag", classes=("none", "some"))


@pytest.fixture
def study() -> Study:
    """One label of whole scans beside one of voxels."""
    return Study.parse(
        {
            "study": {"name": "bags"},
            "volume": {"spacing_mm": [0.7, 0.9, 1.25], "patch": [16, 16, 16]},
            "label": {
                "burden": {"kind": "bag", "classes": ["none", "some"]},
                "chambers": {"kind": "mask", "classes": ["LV"]},
            },
            "model": {"student": {"arch": "light-swin", "feature_size": 12}},
            "stage": [{"name": "s", "recipe": "distil"}],
        }
    )


class Hospital:
    """Two series and a table about them."""

    def __init__(self, folder: Path, write_series: Callable[..., object]) -> None:
        self.data, self.state, self.store = folder / "data", folder / "state", CaseStore(folder)
        for name in ("p1", "p2"):
            write_series(self.data / name / name)
        self.uids: list[str] = []

    def say(self, *rows: str) -> None:
        """Write the table."""
        (self.data / "report.csv").write_text("\n".join(["series,class", *rows]), "utf-8")

    def take_in(self, study: Study) -> tuple[PrepareReport, list[str]]:
        """Scan and prepare; also the codes of label files that found no scan."""
        catalogue = scan(self.data, state=self.state, min_slices=3, rules=RULES)
        self.uids = [entry.series_uid or "" for entry in catalogue.entries]
        unmatched = [f.finding.code for f in catalogue.labels if f.finding is not None]
        return prepare(catalogue, study, RULES, self.store), unmatched

    def classes(self) -> list[str | None]:
        """What the working copies say, sorted."""
        found = [self.store.info(case).bags.get("burden") for case in self.store.ids()]
        return sorted(found, key=str)


@pytest.fixture
def hospital(tmp_path: Path, write_series: Callable[..., object]) -> Hospital:
    """A hospital without a table yet."""
    return Hospital(tmp_path, write_series)


def test_classes_reach_the_working_copies(hospital: Hospital, study: Study) -> None:
    """By folder name or series UID, in the file's own words; counted in the inventory."""
    hospital.say()
    hospital.take_in(study)
    hospital.say("p1,1", f"{hospital.uids[1]}, 0")

    report, unmatched = hospital.take_in(study)

    assert not unmatched
    assert not report.labels
    assert hospital.classes() == ["none", "some"]
    assert inventory(hospital.store, study)["inventory.burden.cases"] == 2
    assert inventory(hospital.store, study)["inventory.unlabelled.cases"] == 0


def test_an_unjudged_scan_has_no_label(hospital: Hospital, study: Study) -> None:
    """An empty cell is neither a class nor a mistake."""
    hospital.say("p1,1", "p2,")

    report, unmatched = hospital.take_in(study)

    assert not unmatched
    assert not report.labels
    assert hospital.classes() == [None, "some"]
    assert inventory(hospital.store, study)["inventory.burden.cases"] == 1


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (["p1,calcified SECRET-9"], "STR-431"),
        (["p1,1", "p1,1"], "STR-433"),
        (["SECRET-9,1"], "STR-430"),
        ([",1"], "STR-431"),
        (["p1,1,SECRET-9"], "STR-431"),
    ],
    ids=["class", "twice", "scan", "nobody", "columns"],
)
def test_a_wrong_row_costs_its_label_and_names_nobody(
    hospital: Hospital, study: Study, rows: list[str], code: str
) -> None:
    """The scan itself is used; the reason has a code and no cell of the table."""
    hospital.say(*rows)

    report, unmatched = hospital.take_in(study)
    report.save(hospital.state / "report.json")

    said = [finding.finding.code for finding in report.labels] + unmatched
    assert said == [code]
    assert hospital.classes() == [None, None]
    assert "SECRET" not in (hospital.state / "report.json").read_text("utf-8")


def test_two_names_of_one_scan_are_two_rows(hospital: Hospital, study: Study) -> None:
    """A scan named by its folder and again by its UID is ambiguous: neither counts."""
    hospital.say()
    hospital.take_in(study)
    hospital.say("p1,1", f"{hospital.uids[0]},0")

    _, unmatched = hospital.take_in(study)

    assert unmatched == ["STR-433", "STR-433"]
    assert hospital.classes() == [None, None]


def test_a_column_label_tells_tables_apart(tmp_path: Path) -> None:
    """One file may hold several labels; rows of another one are left out."""
    file = tmp_path / "t.csv"
    file.write_text("Series, Class ,label\np1,some,burden\np1,bad,quality\n", "utf-8")

    assert labels_bags.is_table(file)
    assert labels_bags.read_class(file, BURDEN, {}, series=["p1"], label_name="Burden") == "some"
    with pytest.raises(DataError):
        labels_bags.read_class(file, BURDEN, {}, series=["p1"])


def test_a_copy_of_an_earlier_release_still_loads(hospital: Hospital, study: Study) -> None:
    """Its case.json knows nothing of classes."""
    hospital.say("p1,1")
    hospital.take_in(study)
    for case in hospital.store.ids():
        path = hospital.store.root / case / "case.json"
        old = json.loads(path.read_text("utf-8"))
        del old["bags"]
        path.write_text(json.dumps(old), "utf-8")

    assert hospital.classes() == [None, None]
