"""The report: complete, self-contained, honest about gaps, and safe with hostile names."""

import copy
import hashlib
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typing_extensions import override

from stillroom.common.markup import Html, data_size, duration, join, moment, tag
from stillroom.common.pages.curves import nice_step, ticks
from stillroom.common.pages.reading import starts
from stillroom.deploy.report import write_report

MASKS = {
    "chambers": ["LV", "RV", "LA", "RA", "myocardium"],
    "vessels": ["aorta", "pulmonary_artery"],
}
POINTS = ["NCC", "RCC", "LCC", "LCA", "RCA", "MS"]
OWNERS = {"chambers": "north-clinic", "vessels": "riverside", "landmarks": "st-anne"}
SITES = [*OWNERS.values(), "harbour"]


def entry(site: str, round_: int, of: int, *, up: int = 1_430_000) -> dict[str, Any]:
    """An admitted update with a loss that falls."""
    phase = (1 + SITES.index(site)) / 7
    loss = 0.28 + 1.5 * math.exp(-3.2 * round_ / of) + 0.05 * math.sin(9 * phase * round_)
    return {
        "status": "admitted",
        "samples": {"cnn": 48},
        "metrics": {"train.loss": loss + phase / 3, "train.cases": 24, "train.seconds": 3.1},
        "bytes_up": up,
        "bytes_down": up,
        "seconds": 3.4 + phase,
    }


def record(number: int, sites: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A round with its sums."""
    return {
        "round": number,
        "sites": sites,
        "samples": {"cnn": 48 * len(sites)},
        "bytes_up": sum(site.get("bytes_up", 0) for site in sites.values()),
        "bytes_down": sum(site.get("bytes_down", 0) for site in sites.values()),
        "seconds": seconds,
    }


def evaluation(number: int) -> dict[str, float]:
    """Held-out scores of an evaluated round."""
    rise = 1 - math.exp(-number / 4)
    scores = {
        f"eval.{label}.{item}.dice": (0.86 - 0.03 * k) * rise
        for label, classes in MASKS.items()
        for k, item in enumerate(classes)
    }
    return scores | {f"eval.landmarks.{p}.detected": 0.95 * rise - 0.02 for p in POINTS}


def table(offset: float, cases: int) -> dict[str, Any]:
    """Results of one site; the point MS is never found there when ``offset`` is negative."""
    result: dict[str, Any] = {}
    for label, classes in MASKS.items():
        dice = {c: round(0.9 - 0.035 * k + offset, 4) for k, c in enumerate(classes)}
        result[label] = {
            "cases": cases,
            "classes": {c: {"cases": cases, "dice": d, "detected": 1.0} for c, d in dice.items()},
            "mean_dice": round(sum(dice.values()) / len(dice), 4),
            "detection_rate": 1.0,
        }
    points: dict[str, Any] = {
        p: {"cases": cases, "detected": 0.92, "found": 0.97, "error_mm": 3.1 + k / 4}
        for k, p in enumerate(POINTS)
    }
    if offset < 0:
        points["MS"] = {"cases": cases, "detected": 0.0, "found": 0.0}
    rate = sum(row["detected"] for row in points.values()) / len(points)
    result["landmarks"] = {
        "cases": cases, "classes": points, "median_error_mm": 3.6, "detection_rate": rate
    }  # fmt: skip
    return result


def sample() -> dict[str, Any]:
    """A study in which everything went well."""
    stages = [
        {
            "name": f"teach-{label}",
            "recipe": "teach",
            "rounds": [record(n, {owner: entry(owner, n, 8)}, 4.0 + k) for n in range(1, 9)],
        }
        for k, (label, owner) in enumerate(OWNERS.items())
    ]
    counts = {
        site: {
            "status": "admitted", "samples": {}, "bytes_up": 0, "bytes_down": 4_300_000,
            "metrics": {"pseudo.chambers.written": 20}, "seconds": 14.0,
        }
        for site in OWNERS.values()
    }  # fmt: skip
    stages.append({"name": "label", "recipe": "pseudolabel", "rounds": [record(1, counts, 21.5)]})
    distil = [
        record(n, {s: entry(s, n, 12, up=4_100_000) for s in OWNERS.values()}, 9.5)
        for n in range(1, 13)
    ]
    for number in (3, 6, 9):
        distil[number - 1]["evaluation"] = {"harbour": evaluation(number)}
    stages.append({"name": "student", "recipe": "distil", "rounds": distil})
    digest = hashlib.sha256(b"study").hexdigest()
    return {
        "study_digest": digest,
        "study_name": "tavi-2026",
        "tls_version": "TLSv1.3",
        "seed": 1,
        "started_at": 1_772_366_400.0,
        "seconds": 236.4,
        "software": {"stillroom": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0"},
        "sites": [
            {
                "name": site,
                "role": "held_out" if site == "harbour" else "train",
                "certificate_sha256": hashlib.sha256(site.encode()).hexdigest(),
                "node_id": 1000 + k,
            }
            for k, site in enumerate(SITES)
        ],
        "stages": stages,
        "metrics": {
            "pooled": table(-0.02, 12),
            "harbour": table(-0.02, 12),
            **{site: {label: table(0.01, 5)[label]} for label, site in OWNERS.items()},
        },
        "notes": [],
    }


def partial() -> dict[str, Any]:
    """The same study with one update of each unhappy kind."""
    summary = sample()
    chambers, student = summary["stages"][0]["rounds"], summary["stages"][4]["rounds"]
    chambers[2]["sites"]["north-clinic"] = {
        "status": "refused", "reason": "STR-303: A tensor holds NaN or infinity.",
        "bytes_up": 1_430_000, "bytes_down": 1_430_000, "seconds": 3.0,
    }  # fmt: skip
    student[4]["sites"]["riverside"] = {
        "status": "late", "reason": "no answer before the deadline", "seconds": 300.0,
    }  # fmt: skip
    student[5]["sites"]["riverside"] = {"status": "failed", "seconds": 1.0}
    summary["notes"] = ["student, round 5: riverside late, no answer before the deadline."] * 2
    return summary


class Page(HTMLParser):
    """Text, elements and attributes of a page, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


@pytest.fixture
def pictures(tmp_path: Path) -> list[tuple[str, Path]]:
    """Two small overlays."""
    result = []
    for number in (1, 2):
        path = tmp_path / f"case-{number}.png"
        Image.new("RGB", (12, 6), (20, 40, 60)).save(path)
        result.append((f"harbour, case {number}", path))
    return result


def render(folder: Path, summary: dict[str, Any], **extra: Any) -> tuple[str, Page]:
    path = write_report(folder / "report.html", summary=summary, **extra)
    source = path.read_text("utf-8")
    return source, Page(source)


def test_page_holds_everything_it_needs(tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
    """No address, script, import or outside reference: the page works with the network gone."""
    source, page = render(tmp_path, sample(), overlays=pictures)

    assert not re.search(r"(?i)https?:|url\(|@import|<script|javascript:|\son[a-z]+=", source)
    for name, attributes in page.elements:
        assert name not in {"script", "link", "iframe", "object", "embed", "base", "use"}
        for key in ("src", "href", "srcset", "action", "xlink:href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/png;base64,"))
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert not page.open


def test_every_name_and_number_is_in_the_text(
    tmp_path: Path, pictures: list[tuple[str, Path]]
) -> None:
    """Sites, stages, recipes, labels, classes, scores, identities and versions can be read."""
    summary = sample()
    release = tmp_path / "release"
    (release / "bundle").mkdir(parents=True)
    (release / "bundle" / "model.safetensors").write_bytes(b"weights")
    _, page = render(tmp_path, summary, overlays=pictures, release=release)

    wanted = ["tavi-2026", summary["study_digest"], "TLS 1.3", "Seed 1", "flwr 1.41.0"]
    wanted += ["1 March 2026, 12:00 UTC", "3 min 56 s", "pooled"]
    wanted += [str(site["node_id"]) for site in summary["sites"]] + SITES
    wanted += [text for stage in summary["stages"] for text in (stage["name"], stage["recipe"])]
    wanted += [item for classes in MASKS.values() for item in classes] + POINTS
    for tables in summary["metrics"].values():
        for result in tables.values():
            for row in result["classes"].values():
                wanted += [f"{row['dice']:.3f}"] if "dice" in row else []
                wanted += [f"{row['error_mm']:.1f} mm"] if "error_mm" in row else []
    wanted += ["bundle/model.safetensors", hashlib.sha256(b"weights").hexdigest()]
    wanted += [caption for caption, _ in pictures]
    assert [text for text in wanted if text not in page.text] == []
    hover = {attributes.get("title") for _, attributes in page.elements}
    assert {site["certificate_sha256"] for site in summary["sites"]} <= hover


def test_a_point_never_found_is_a_failure(tmp_path: Path) -> None:
    """A miss shows as such, with its rate of zero, and lowers the rate of its label."""
    _, page = render(tmp_path, sample())

    assert "never found 0 % found" in page.text
    assert "77 % of points found, 12 cases" in page.text


def test_what_a_site_kept_to_itself_is_not_called_a_miss(tmp_path: Path) -> None:
    """Scores over too few scans never left: a dash, or words, and no "never found"."""
    summary = sample()
    for site, result in summary["metrics"].items():
        if site != "pooled" and "landmarks" in result:
            first, second = list(result["landmarks"]["classes"])[:2]
            del result["landmarks"]["classes"][first]["error_mm"]
            del result["landmarks"]["classes"][second]
    _, page = render(tmp_path, summary)

    assert "found in too few 92 % found" in page.text
    assert "—" in page.text


def test_complete_participation_is_said_quietly(tmp_path: Path) -> None:
    """No alarm when there is nothing to be alarmed about."""
    _, page = render(tmp_path, sample())

    assert not any(attributes.get("role") == "alert" for _, attributes in page.elements)
    assert "Every site that was asked answered in every round" in page.text


def test_partial_participation_is_shouted(tmp_path: Path) -> None:
    """It stands above all results, in the summary, in the matrix and with every reason."""
    _, page = render(tmp_path, partial())

    assert page.text.index("Partial participation") < page.text.index("Pooled")
    assert any(attributes.get("role") == "alert" for _, attributes in page.elements)
    assert "3 of 37 rounds went on without" in page.text
    assert "north-clinic and riverside" in page.text
    assert "Not every site took part in every round" in page.text
    assert "STR-303: A tensor holds NaN or infinity." in page.text
    assert "riverside, student, round 5: late (no answer before the deadline)" in page.text
    assert "no reason recorded" in page.text
    assert page.text.count("round 5: riverside late") == 1


def test_a_site_that_never_counted_is_named(tmp_path: Path) -> None:
    """A training site without one admitted update is missing loudly, asked or not."""
    summary = sample()
    summary["sites"].append({"name": "hilltop", "role": "train"})
    _, page = render(tmp_path, summary)

    assert "No work of hilltop counts in any round." in page.text


def test_a_missing_round_is_a_hole_in_the_line(tmp_path: Path) -> None:
    """No stroke is drawn across a round that a site has no part in; sparse scores stay joined."""
    whole, _ = render(tmp_path, sample())
    broken, _ = render(tmp_path, partial())

    def strokes(source: str) -> list[int]:
        return [d.count("M") for d in re.findall(r'<path d="([^"]*)" class="line', source)]

    assert strokes(whole) == [1] * 9
    assert strokes(broken) == [2, 1, 1, 1, 2, 1, 1, 1, 1]


def test_a_failed_study_says_so_first(tmp_path: Path) -> None:
    """The error's code, sentence and fix stand above everything else."""
    summary = sample() | {
        "status": "failed",
        "error": {"code": "STR-306", "what": "1 of 3 sites gave an update.", "fix": "Mend it."},
    }
    summary["stages"][4]["rounds"] = []
    _, page = render(tmp_path, summary)

    assert "This study did not finish STR-306 1 of 3 sites gave an update. Mend it." in page.text
    assert "No round was finished." in page.text


def test_hostile_names_stay_text(tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
    """Whatever a name holds, it adds no element and no attribute to the page."""
    evil = "\"><img src=x onerror='a()'><script>b()</script>&amp;"
    clean, clean_page = render(tmp_path, partial(), overlays=pictures)
    hostile = _renamed(partial(), "riverside", evil)
    hostile |= {"study_name": evil, "study_digest": evil, "tls_version": evil}
    hostile["notes"] = [evil]
    hostile["software"] = {evil: evil}
    hostile["stages"][0]["name"] = evil
    hostile["sites"][0]["certificate_sha256"] = evil
    captions = [(evil, path) for _, path in pictures]
    source, page = render(tmp_path, hostile, overlays=captions)

    assert "<script" not in source
    assert "<img src=x" not in source
    assert [name for name, _ in page.elements] == [name for name, _ in clean_page.elements]
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert evil in page.text
    assert clean != source


def _renamed(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {(new if k == old else k): _renamed(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(item, old, new) for item in value]
    return new if value == old else copy.copy(value)


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"study_name": "x", "stages": [], "sites": [], "metrics": {}},
        {"stages": [{"name": "a", "recipe": "teach", "rounds": [{"round": 1, "sites": {}}]}]},
        {"stages": [{"name": "a", "rounds": [{"round": 1, "sites": {"s": {}}}]}]},
        {"sites": [{"name": "s"}], "metrics": {"s": {"l": {"classes": {"c": {}}}}}},
        {"sites": [{"name": "s", "role": "held_out"}], "metrics": {"pooled": {"l": {}}}},
    ],
)
def test_absent_keys_are_not_errors(tmp_path: Path, summary: dict[str, Any]) -> None:
    """A report of an unfinished run is still a report."""
    _, page = render(tmp_path, summary, release=tmp_path / "missing")

    assert "This run published no model." in page.text
    assert not page.open


def test_a_picture_that_is_none_is_said_to_be_missing(tmp_path: Path) -> None:
    """Only PNG data is embedded; anything else leaves its caption and a sentence."""
    fake = tmp_path / "fake.png"
    fake.write_text("<svg onload='x'>")
    source, page = render(tmp_path, sample(), overlays=[("a", fake), ("b", tmp_path / "none.png")])

    assert page.text.count("This picture could not be read.") == 2
    assert "onload" not in source


def test_pictures_and_drawings_have_words(tmp_path: Path, pictures: list[tuple[str, Path]]) -> None:
    """Every image has its caption as alternative; every drawing a title or is decoration."""
    source, page = render(tmp_path, partial(), overlays=pictures)

    assert all(a.get("alt") for name, a in page.elements if name == "img")
    for drawing in re.findall(r"<svg.*?</svg>", source):
        assert "<title" in drawing or 'aria-hidden="true"' in drawing
    identities = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identities) == len(set(identities))
    referred = " ".join(
        str(a["aria-labelledby"]) for _, a in page.elements if "aria-labelledby" in a
    )
    assert set(referred.split()) <= set(identities)


def test_wire_traffic_and_teachers_are_shown_when_known(tmp_path: Path) -> None:
    """What the edge counted and what each teacher reached are there when the summary has them."""
    summary = sample() | {"teachers": {"teach-chambers": {"pooled": table(0.0, 12)}}}
    summary["sites"][0] |= {"bytes_in": 12_345_678, "bytes_out": 23_456_789}
    _, page = render(tmp_path, summary)

    assert "12.3 MB · 23.5 MB" in page.text
    assert "Teacher of stage teach-chambers" in page.text


def test_many_sites_and_rounds_fit(tmp_path: Path) -> None:
    """Sixteen sites and a hundred rounds make a page, not a puzzle."""
    names = [f"site-{k}" for k in range(16)]
    rounds = [record(n, {s: entry("harbour", n, 100) for s in names}, 1.0) for n in range(1, 101)]
    stages = [{"name": "student", "recipe": "distil", "rounds": rounds}]
    summary = sample() | {"stages": stages, "sites": [{"name": s, "role": "train"} for s in names]}
    source, _ = render(tmp_path, summary | {"metrics": {}})

    assert len(source) < 2_000_000


def test_stages_side_by_side_share_the_clock() -> None:
    """Consecutive teachers start together; what follows starts when the slowest is done."""
    summary = {
        "stages": [
            {"recipe": "teach", "rounds": [{"seconds": 2}, {"seconds": 2}]},
            {"recipe": "teach", "rounds": [{"seconds": 3}]},
            {"recipe": "distil", "rounds": [{"seconds": 1}]},
        ]
    }

    assert starts(summary) == [[(0.0, 2.0), (3.0, 2.0)], [(0.0, 3.0)], [(5.0, 1.0)]]


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_numbers_read_as_people_write_them() -> None:
    """Sizes, durations, times and axis steps."""
    assert [plain(data_size(n)) for n in (0, 999, 1430000, 2.5e9, 3e12)] == [
        "0 B", "999 B", "1.43 MB", "2.5 GB", "3 TB",
    ]  # fmt: skip
    assert [plain(duration(s)) for s in (0.04, 59.94, 192, 7500)] == [
        "0.0 s", "59.9 s", "3 min 12 s", "2 h 05 min",
    ]  # fmt: skip
    assert moment("2026-03-01T13:00:00+01:00") == "1 March 2026, 12:00 UTC"
    assert moment("yesterday") == "yesterday"
    assert [nice_step(v) for v in (1.0, 0.07, 3.2)] == [0.2, 0.02, 1.0]
    assert [ticks(1, 8), ticks(1, 12), ticks(1, 1), ticks(1, 100)] == [
        [1, 2, 4, 6, 8], [1, 2, 4, 6, 8, 10, 12], [1], [1, 20, 40, 60, 80, 100],
    ]  # fmt: skip


def test_markup_escapes_unless_told() -> None:
    """Strings are text; only Html is HTML; attributes never end early."""
    assert tag("p", "<b>", Html("<i>x</i>"), None, ["&"], title='"x"') == (
        '<p title="&quot;x&quot;">&lt;b&gt;<i>x</i>&amp;</p>'
    )
    assert join(1, "a") == "1a"
