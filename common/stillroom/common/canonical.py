"""Canonical JSON bytes and their SHA-256: one value, one byte string, one digest.

A study, a manifest and a round record are named by the digest of these bytes, so two
machines must agree on them to the last byte. The form is the common subset of
RFC 8785 (JCS): keys sorted, no white space, UTF-8, no NaN or infinity.
"""

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_bytes(value: Any) -> bytes:
    """UTF-8 JSON of ``value`` with sorted keys and no white space.

    Args:
        value: Nested dicts with string keys, lists, strings, finite numbers, booleans, None.

    Raises:
        ValueError: NaN or infinity, which JSON cannot say.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def digest(value: Any) -> str:
    """SHA-256 of ``canonical_bytes(value)``, lower-case hex."""
    return hashlib.sha256(canonical_bytes(value)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hex, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
