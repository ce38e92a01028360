"""Leaving a consortium for good: consent withdrawn, shut out by our own word, copies wiped.

In this order, each step of which may be done twice::

    1. ``leaving.json``   in courier_state: from here on the same command finishes what was begun
    2. the consent        withdrawn: the runner stops at its next batch
    3. the server         told, and asked to let this site in no more; may be away
    4. the copies         working copies, pseudo-labels, predictions, models, updates, outbox
    5. ``leaving.json``   says that all is done

A kill between any two leaves a site that does nothing and a command that goes on. What stays: ledger,
receipts, what was seen of the log, consents and withdrawals, keys, site.toml. Files are removed, not
overwritten: on today's disks that would prove nothing.
"""

import http.client
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from stillroom.client.config import SiteConfig
from stillroom.client.connection import Dialler
from stillroom.client.consent_post import ConsentPost
from stillroom.client.consents import ConsentBook, withdraw_consent
from stillroom.client.exchange import ExchangeFolder, RunnerLock
from stillroom.client.ledger import NAME as LEDGER
from stillroom.client.ledger import Ledger
from stillroom.client.papers import client_context
from stillroom.common.consent import Consent
from stillroom.common.errors import StillroomError
from stillroom.common.pki.files import load_signing_key
from stillroom.common.tensorfile import write_durably

NAME = "leaving.json"
PATH = "/v1/stillroom/leave"
Told = Literal["told", "out already", "not reached"]

OF_STATE = ("studies", "catalogue*.json", "intake-*.json", "salt", "runner.log*")
"""In ``state``: everything that was made from a scan, and what was written while doing so."""
OF_EXCHANGE = ("models", "updates")
OF_COURIER = ("outbox", "models.json")


@dataclass(frozen=True, slots=True)
class Left:
    """How far it went.

    Attributes:
        since: When it was begun.
        server: Whether the server knows.
        withdrawn: How many consents were withdrawn, all in all.
        wiped: Whether the copies are gone.
    """

    since: datetime
    server: Told = "not reached"
    withdrawn: int = 0
    wiped: bool = False


def standing(courier_state: Path) -> Left | None:
    """How far leaving has gone; None where it was not begun."""
    try:
        said = json.loads((courier_state / NAME).read_bytes())
        return Left(
            datetime.fromisoformat(said["since"]),
            said["server"],
            int(said["withdrawn"]),
            bool(said["wiped"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def leave(config: SiteConfig, say: Callable[[str], None]) -> Left:
    """Leave, or go on leaving.

    Args:
        config: site.toml.
        say: Told of every step, for the screen.

    Raises:
        ResourceError: STR-513, STR-507: runner or courier still runs; consent and server are done
            by then. STR-503, the disk.
    """
    left = standing(config.courier_state) or Left(datetime.now(UTC))
    _keep(config, left)
    count = _withdraw(config)
    left = Left(left.since, left.server, left.withdrawn + count, left.wiped)
    _keep(config, left)
    say(f"consent withdrawn ({count} now, {left.withdrawn} in all)")
    if left.server == "not reached":
        left = Left(left.since, _tell(config), left.withdrawn, left.wiped)
        _keep(config, left)
    say(f"server: {left.server}")
    # Nobody else may be at it: what a living runner or courier writes would come after the wiping.
    with (
        RunnerLock(ExchangeFolder(config.exchange)),
        Ledger(config.courier_state / LEDGER),
    ):
        removed = wipe(config)
    left = Left(left.since, left.server, left.withdrawn, wiped=True)
    _keep(config, left)
    say(f"{removed} files removed; ledger, receipts, consents and keys stay")
    return left


def wipe(config: SiteConfig) -> int:
    """Remove every copy; returns how many files went."""
    places = (
        (config.state, OF_STATE),
        (config.exchange, OF_EXCHANGE),
        (config.courier_state, OF_COURIER),
    )
    count = 0
    for folder, patterns in places:
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                if path.is_dir() and not path.is_symlink():
                    count += sum(p.is_file() for p in path.rglob("*"))
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                    count += 1
    return count


def _withdraw(config: SiteConfig) -> int:
    """Withdraw every consent that was given, to whatever study; none is left to count."""
    book, count = ConsentBook.below(config.exchange), 0
    for path in sorted(book.folder.glob("*.json")):
        try:
            latest = book.latest(path.stem)
        except StillroomError:
            continue  # what cannot be read allows nothing
        if isinstance(latest, Consent):
            key = load_signing_key(config.signing_key)
            withdraw_consent(book, key, study=path.stem, site=config.site)
            count += 1
    return count


def _tell(config: SiteConfig) -> Told:
    """Hand in the withdrawals and ask to be shut out; the server may be away."""
    context = partial(client_context, config.tls)
    try:
        ConsentPost(ConsentBook.below(config.exchange), config.server, context).tell()
        line = Dialler(config.server, context).take()
    except (OSError, StillroomError):
        return "not reached"
    try:
        line.request("POST", PATH, body=b"")
        answer = line.getresponse()
        answer.read(1 << 14)
    except (OSError, http.client.HTTPException):
        return "not reached"
    finally:
        line.close()
    if answer.status == 200:
        return "told"
    return "out already" if answer.status == 401 else "not reached"


def _keep(config: SiteConfig, left: Left) -> None:
    config.courier_state.mkdir(parents=True, exist_ok=True)
    said = {
        "since": left.since.isoformat(),
        "server": left.server,
        "withdrawn": left.withdrawn,
        "wiped": left.wiped,
    }
    write_durably(config.courier_state / NAME, json.dumps(said).encode())
