"""Where a page listens, and whom it believes: on this machine alone, or behind a password and TLS."""

import ipaddress
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from stillroom.common.errors import ConfigError

SHORTEST = 16
"""Characters of a password: nobody types it often, and nobody shall guess it."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Listening:
    """Where, under which names, and for whom.

    Attributes:
        host: Address to bind, without brackets.
        port: Port.
        names: What a browser may call this machine; a page asked for under another name answers
            nothing, so that no web site can have its own name point here (DNS rebinding).
        password: Asked for where it is set.
        certificate: PEM, and ``private_key`` beside it: TLS where both are set.
        private_key: PEM.
    """

    host: str
    port: int
    names: frozenset[str] = LOCAL_NAMES
    password: str | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    @property
    def url(self) -> str:
        """What one types into a browser on this machine."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.certificate is None else 'https'}://{host}:{self.port}/"


def listening(
    address: str,
    *,
    names: list[str] | None = None,
    password_file: Path | None = None,
    certificate: Path | None = None,
    private_key: Path | None = None,
) -> Listening:
    """What the command line says, checked.

    Raises:
        ConfigError: STR-100, ``address`` is not an address and a port; STR-525, other machines could
            reach the page and nothing keeps them out; STR-526, the password cannot be used.
    """
    host, port = _parse(address)
    if not ipaddress.ip_address(host).is_loopback and None in (
        password_file,
        certificate,
        private_key,
    ):
        raise ConfigError(
            f"The page would be open to other machines at {address}.",
            fix="Listen on 127.0.0.1, or give --password-file, --certificate and --private-key.",
            code="STR-525",
        )
    own = {f"[{host}]" if ":" in host else host} - {"0.0.0.0", "[::]"}  # noqa: S104  # not bound here
    return Listening(
        host=host,
        port=port,
        names=LOCAL_NAMES | own | {name.lower() for name in names or ()},
        password=None if password_file is None else read_password(password_file),
        certificate=certificate if private_key is not None else None,
        private_key=private_key if certificate is not None else None,
    )


def read_password(path: Path) -> str:
    """The first line of a file that is its owner's alone.

    Raises:
        ConfigError: STR-526.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable("cannot be read") from error
    password = text.partition("\n")[0].strip()
    if stat.S_IMODE(mode) & 0o077:
        raise _unusable("can be read by others")
    if len(password) < SHORTEST:
        raise _unusable(f"holds fewer than {SHORTEST} characters")
    return password


def same_secret(given: str, wanted: str) -> bool:
    """Whether they are equal; the time it takes tells nothing."""
    return secrets.compare_digest(given.encode("utf-8"), wanted.encode("utf-8"))


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = {"localhost": "127.0.0.1"}.get(host, host.removeprefix("[").removesuffix("]"))
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError as error:
        raise ConfigError(
            "--listen takes an address and a port.", fix="Write for example 127.0.0.1:8480."
        ) from error
    if not 0 <= number <= 65535:
        raise ConfigError("--listen names no port.", fix="Choose one between 1 and 65535.")
    return host, number


def _unusable(how: str) -> ConfigError:
    return ConfigError(
        f"The page's password file {how}.",
        fix="Make one with `openssl rand -hex 16 > page.password && chmod 600 page.password`.",
        code="STR-526",
    )
