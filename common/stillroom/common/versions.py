"""Which releases of client and server work together. Pure, but for reading our own version.

Each side states its version and the oldest other side it works with. The rule: not older than the
other side's oldest, and the client's first number is not above the server's, because a server cannot
know what a client of a later generation expects. A patch or a minor release of either side may
therefore be installed first, and in any order, as long as nobody raises an oldest.

A peer that states nothing is a release from before this rule; it is taken for ``UNSTATED``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as installed
from typing import Any, Literal

from packaging.version import InvalidVersion, Version

HEADER = "stillroom-version"
"""What a courier states with every request."""
OLDEST_CLIENT = Version("0.1.0")
"""The oldest client that this release's server takes. Raise it with the change that needs it."""
OLDEST_SERVER = Version("0.1.0")
"""The oldest server that this release's client works with."""
UNSTATED = Version("0.1.0")
"""The last release that stated no version."""
MOST_CHARACTERS = 40

Verdict = Literal["client-unreadable", "client-too-old", "client-too-new", "server-too-old"]


@dataclass(frozen=True, slots=True)
class About:
    """What a server says of itself.

    Attributes:
        version: Its own.
        oldest_client: The oldest client it takes.
    """

    version: Version
    oldest_client: Version

    def as_json(self) -> dict[str, str]:
        """For ``GET /v1/stillroom/about``, and part of every refusal."""
        return {"version": str(self.version), "oldest_client": str(self.oldest_client)}

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "About":
        """What an answer says; a server that says nothing of it is from before this rule."""
        version = read_version(said.get("version")) or UNSTATED
        return cls(version, read_version(said.get("oldest_client")) or OLDEST_CLIENT)


@cache
def own_version() -> Version:
    """The release that is installed here."""
    return Version(installed("stillroom"))


def present() -> About:
    """What the server that is installed here says of itself."""
    return About(own_version(), OLDEST_CLIENT)


def read_version(text: object) -> Version | None:
    """A version as a peer wrote it; None when it is none. Bounded: peers write it."""
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS or not text.isascii():
        return None
    try:
        return Version(text)
    except InvalidVersion:
        return None


def stated(text: str | None) -> Version | None:
    """What a client stated in its header; None when that cannot be read."""
    return UNSTATED if text is None else read_version(text)


def client_refusal(client: Version | None, about: About) -> Verdict | None:
    """Why this server does not take that client; None when it does.

    Args:
        client: As ``stated`` says.
        about: The server.
    """
    if client is None:
        return "client-unreadable"
    if client < about.oldest_client:
        return "client-too-old"
    return "client-too-new" if client.major > about.version.major else None


def mismatch(
    client: Version, about: About, oldest_server: Version = OLDEST_SERVER
) -> Verdict | None:
    """Why client and server do not work together, as the client sees it; None when they do."""
    why = client_refusal(client, about)
    if why is not None:
        return why
    return "server-too-old" if about.version < oldest_server else None
