"""The consortium this site joined, as it was pinned at enrolment."""

from pathlib import Path

from stillroom.common.consortium import Consortium, read_consortium
from stillroom.common.errors import ConfigError


def pinned(path: Path) -> Consortium:
    """The consortium this site joined.

    Raises:
        ConfigError: STR-101, the file cannot be read.
        TrustError: STR-207, it is damaged.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            "The consortium's description cannot be read.",
            fix="Restore consortium.json, or enrol this site again.",
            code="STR-101",
        ) from error
    return read_consortium(raw)
