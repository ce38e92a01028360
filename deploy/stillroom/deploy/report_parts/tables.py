"""What crossed the boundary, how good the model is, and what was released. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from stillroom.common.markup import (
    Child,
    Html,
    data_size,
    join,
    percent,
    short,
    tag,
    tls_name,
)
from stillroom.common.pages.document import scrolled, table_head
from stillroom.common.pages.marks import site_key, site_mark
from stillroom.common.pages.reading import Summary, site_names, traffic

ROLES = {"train": "trains", "held_out": "held out"}
POOLED = "pooled"


def boundary(summary: Summary) -> Html:
    """One row per site: role, identity, and tensors in both directions."""
    names = site_names(summary)
    listed = {str(site["name"]): site for site in summary.get("sites") or []}
    moved = {name: traffic(summary, name) for name in names}
    most = max((max(pair) for pair in moved.values() if pair), default=0) or 1
    is_counted = any("bytes_in" in site for site in listed.values())
    heads: list[Child] = ["site", "role", "TLS", "certificate", "weights sent", "weights received"]
    if is_counted:
        heads.append("all traffic, sent and received")
    rows = []
    for index, name in enumerate(names):
        site = listed.get(name, {})
        pair = moved[name]
        tls = tls_name(site.get("tls_version") or summary.get("tls_version"))
        certificate = site.get("certificate_sha256")
        cells: list[Child] = [
            tag("th", site_key(index, name), scope="row"),
            tag("td", ROLES.get(str(site.get("role")), site.get("role", "not enrolled"))),
            tag("td", tls),
            tag("td", short(certificate) if certificate else "—"),
            *(_flow(value, most) for value in (pair or (None, None))),
        ]
        if is_counted:
            both = [data_size(int(site.get(key) or 0)) for key in ("bytes_in", "bytes_out")]
            cells.append(tag("td", " · ".join(both), class_="num"))
        rows.append(tag("tr", cells))
    return scrolled(tag("table", table_head(heads), tag("tbody", rows), class_="wide"))


def _flow(count: int | None, most: int) -> Html:
    if count is None:
        return tag("td", "—", class_="num")
    bar = tag("span", class_="flow", style=f"width:{6 * count / most:.2f}rem")
    return tag("td", data_size(count), bar, class_="num")


def results(metrics: Mapping[str, Any], order: Sequence[str]) -> Html:
    """One table per label: pooled first, then every site that scored it.

    Args:
        metrics: ``{site: {label: {cases, classes, ...}}}``; ``pooled`` is the pool.
        order: Every site; the place in it gives the mark.
    """
    columns = [name for name in (POOLED, *order) if metrics.get(name)]
    labels = list(dict.fromkeys(label for name in columns for label in metrics[name]))
    if not labels:
        return tag("p", "No model was scored.", class_="quiet")
    return join(*(_label_table(metrics, label, columns, order) for label in labels))


def _label_table(
    metrics: Mapping[str, Any], label: str, columns: Sequence[str], order: Sequence[str]
) -> Html:
    tables = {name: metrics[name][label] for name in columns if label in metrics[name]}
    classes = list(
        dict.fromkeys(c for table in tables.values() for c in table.get("classes") or {})
    )
    is_mask = any(
        "mean_dice" in table or "dice" in row
        for table in tables.values()
        for row in (table.get("classes") or {}).values()
    )
    what = "dice" if is_mask else "detected"
    heads: list[Child] = [
        "class" if is_mask else "point",
        join(
            "Dice" if is_mask else "found", tag("span", tag("i", "0"), tag("i", "1"), class_="ends")
        ),
        *(name if name == POOLED else site_key(order.index(name), name) for name in tables),
    ]
    rows: list[Child] = []
    for item in classes:
        scores = {name: (t.get("classes") or {}).get(item, {}) for name, t in tables.items()}
        shares = {name: row[what] for name, row in scores.items() if row.get(what) is not None}
        cells = [_score(row, is_mask=is_mask, pooled=n == POOLED) for n, row in scores.items()]
        strip = tag("td", _strip(item, shares, order), class_="strip")
        rows.append(tag("tr", tag("th", item, scope="row"), strip, cells))
    heading = "mean" if is_mask else "all"
    foot = [_total(t, is_mask=is_mask, pooled=n == POOLED) for n, t in tables.items()]
    rows.append(
        tag("tr", tag("th", heading, scope="row"), tag("td", class_="strip"), foot, class_="total")
    )
    cases = " · ".join(f"{name} {t['cases']:g}" for name, t in tables.items() if "cases" in t)
    caption = tag("caption", tag("b", label), tag("span", f"cases: {cases}" if cases else ""))
    table = tag("table", caption, table_head(heads), tag("tbody", rows), class_="wide results")
    return scrolled(table)


def _score(row: Mapping[str, Any], *, is_mask: bool, pooled: bool) -> Html:
    """A Dice, or an error and how often the point was found at all."""
    style = "num pooled" if pooled else "num"
    if is_mask:
        value = row.get("dice")
        return tag("td", "—" if value is None else f"{value:.3f}", class_=style)
    rate = row.get("detected")
    return tag("td", *_points(row.get("error_mm"), rate, row.get("found", rate)), class_=style)


def _total(table: Mapping[str, Any], *, is_mask: bool, pooled: bool) -> Html:
    style = "num pooled" if pooled else "num"
    rate = table.get("detection_rate")
    if is_mask:
        dice = table.get("mean_dice")
        small = None if rate is None else tag("small", f"{percent(rate)} detected")
        return tag("td", "—" if dice is None else f"{dice:.3f}", small, class_=style)
    rows = (table.get("classes") or {}).values()
    found = max((row.get("found", row.get("detected")) or 0 for row in rows), default=rate)
    return tag("td", *_points(table.get("median_error_mm"), rate, found), class_=style)


def _points(
    error_mm: float | None, rate: float | None, found: float | None
) -> tuple[str, Html | None]:
    """A distance and a share; words where there is none, for a site may keep those of few scans."""
    if rate is None:
        return "—", None
    words = "found in too few" if found else "never found"
    small = tag("small", f"{percent(rate)} found")
    return words if error_mm is None else f"{error_mm:.1f} mm", small


def _strip(item: str, shares: Mapping[str, float], order: Sequence[str]) -> Html:
    """Every value on one line from 0 to 1; the pool as a caret above it."""
    width, middle = 200, 8
    parts: list[Child] = [
        tag("path", d=f"M4 {middle} H{width - 4}", class_="axis"),
        *(tag("path", d=f"M{4 + 192 * q} 5 V11", class_="grid") for q in (0, 0.25, 0.5, 0.75, 1)),
    ]
    for name, value in shares.items():
        x = 4 + 192 * min(max(value, 0.0), 1.0)
        if name == POOLED:
            caret = f"M{x - 4:.1f} -4 H{x + 4:.1f} L{x:.1f} 3 Z"
            parts.append(tag("path", d=caret, class_="pool"))
        else:
            parts.append(site_mark(order.index(name), x, middle, 3.6))
    words = ", ".join(f"{name} {value:.3g}" for name, value in shares.items())
    return tag(
        "svg",
        tag("title", f"{item}: {words}"),
        parts,
        viewBox=f"0 0 {width} 16",
        role="img",
        class_="dots",
    )


def release_table(files: Sequence[tuple[str, int, str]]) -> Html:
    """Files of the release.

    Args:
        files: (path relative to the release, bytes, SHA-256).
    """
    rows = [
        tag("tr", tag("th", tag("code", name), scope="row"),
            tag("td", data_size(size), class_="num"),
            tag("td", tag("code", digest, class_="full")))
        for name, size, digest in files
    ]  # fmt: skip
    heads: list[Child] = ["file", "size", "SHA-256"]
    return scrolled(tag("table", table_head(heads), tag("tbody", rows), class_="wide files"))
