"""Passwords, headers and keys for the PACS: files that only their owner may read."""

import ssl
import stat
from pathlib import Path

from stillroom.common.errors import ConfigError, TrustError


def read_private(path: Path, key: str) -> str:
    """The text of a file that holds a secret.

    Args:
        path: The file.
        key: Its key in site.toml, for messages.

    Raises:
        ConfigError: It is absent, empty or not text (STR-101).
        TrustError: Others can read it (STR-202).
    """
    check_private(path, key)
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise _absent(key) from None
    if not text:
        raise _absent(key)
    return text


def check_private(path: Path, key: str) -> None:
    """Refuse a secret that others can read; see ``read_private``."""
    try:
        mode = path.stat().st_mode
    except OSError:
        raise _absent(key) from None
    if stat.S_IMODE(mode) & 0o077:
        raise TrustError(
            f"The file {key} is readable by others.", fix=f"Run `chmod 600 {path}`.", code="STR-202"
        )


def read_headers(path: Path) -> dict[str, str]:
    """HTTP headers, ``Name: value`` a line.

    Raises:
        ConfigError: A line is none (STR-101).
        TrustError: Others can read the file (STR-202).
    """
    headers = {}
    for line in read_private(path, "pacs.web.headers_file").splitlines():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigError(
                "A line of pacs.web.headers_file is no header.",
                fix="Write `Name: value`, one a line.",
                code="STR-101",
            )
        headers[name.strip()] = value.strip()
    return headers


def tls_context(
    ca: Path | None, certificate: Path | None, private_key: Path | None, *, is_server: bool = False
) -> ssl.SSLContext:
    """TLS 1.2 or newer with the hospital's own CA; the system's where none is named.

    As a server (``store_port``) the peer must show a certificate of that CA: only the PACS delivers.

    Raises:
        ConfigError: A file cannot be read (STR-101).
        TrustError: Others can read the key (STR-202).
    """
    purpose = ssl.Purpose.CLIENT_AUTH if is_server else ssl.Purpose.SERVER_AUTH
    try:
        context = ssl.create_default_context(purpose, cafile=None if ca is None else str(ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if is_server:
            context.verify_mode = ssl.CERT_REQUIRED
        if certificate is not None and private_key is not None:
            check_private(private_key, "pacs private_key")
            context.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError):
        raise ConfigError(
            "A certificate or key of [pacs] cannot be read.",
            fix="Check ca, certificate and private_key: PEM files, the last two of one pair.",
            code="STR-101",
        ) from None
    return context


def _absent(key: str) -> ConfigError:
    return ConfigError(
        f"The file {key} cannot be read or is empty.",
        fix="Check its path and permissions.",
        code="STR-101",
    )
