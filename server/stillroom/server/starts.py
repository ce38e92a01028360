"""When a site's courier (re)starts it says so; a run that waits for that site then asks again."""

import secrets
from pathlib import Path

from stillroom.common.tensorfile import write_durably


def note_start(folder: Path, site: str) -> None:
    """Remember that the courier of ``site`` has just started."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / site, secrets.token_hex(8).encode("ascii"))


def last_start(folder: Path, site: str) -> str:
    """A text that is another one after every start of this site's courier; empty before the first.

    Not a time: clocks jump. Compare it with what it was when the site was asked.
    """
    try:
        return (folder / site).read_text("ascii")
    except FileNotFoundError:
        return ""
