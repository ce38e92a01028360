"""Whether this release and the server's work together, and which one to install. Pure."""

from collections.abc import Mapping
from typing import Any

from packaging.version import Version

from stillroom.common.errors import ContractError
from stillroom.common.versions import HEADER, OLDEST_SERVER, About, Verdict, mismatch, own_version

UPGRADE_REQUIRED = 426
"""HTTP status of a server's refusal over the version (RFC 9110, 15.5.22)."""


def version_header() -> dict[str, str]:
    """What every request of this site states."""
    return {HEADER: str(own_version())}


def require_compatible(said: Mapping[str, Any], server: str) -> About:
    """Read what a server says of its version; refuse to go on where we do not fit together.

    Args:
        said: Its answer.
        server: ``host:port``.

    Raises:
        ContractError: STR-216, STR-217.
    """
    about, own = About.read(said), own_version()
    why = mismatch(own, about)
    if why is not None:
        raise explained(why, own, about, server)
    return about


def refused_over_version(said: Mapping[str, Any], server: str) -> ContractError:
    """What a refusal with ``UPGRADE_REQUIRED`` means, for the reader of this site's log."""
    about, own = About.read(said), own_version()
    return explained(mismatch(own, about) or "client-unreadable", own, about, server)


def explained(why: Verdict, own: Version, about: About, server: str) -> ContractError:
    """The error of a mismatch: which release to install, and who has to do it."""
    if why == "server-too-old":
        return ContractError(
            f"{server} runs release {about.version}; this client ({own}) works with {OLDEST_SERVER} "
            "or later.",
            fix=f"Install release {about.version} of the client until the operator has upgraded.",
            code="STR-217",
        )
    takes = {
        "client-too-old": f"it takes {about.oldest_client} or later",
        "client-too-new": f"it knows no client beyond {about.version.major}.x",
    }.get(why, "it cannot read that")
    return ContractError(
        f"{server} does not take this client, which is release {own}: {takes}.",
        fix=f"Install release {about.version} of the client, the server's own; keys, consents and "
        "the ledger stay as they are.",
        code="STR-216",
    )
