"""Faults of keys, certificates and membership, and couriers that share an identity."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from faults import fault
from place import OTHER, SITE, THIRD, Place, set_toml

from stillroom.client.pulse import read_pulse
from stillroom.common.pki.files import load_key, write_certificate, write_key
from stillroom.common.pki.issue import issue_site, make_ca, new_key


def _reissue(place: Place, config: Path, *, site: str = SITE, days_ago: int = 0) -> None:
    """A certificate for this site's key by the consortium's CA."""
    ca, ca_key = place.authority
    key = load_key(config.parent / "site.key").public_key()
    now = datetime.now(UTC) - timedelta(days=days_ago)
    write_certificate(config.parent / "site.pem", issue_site(ca, ca_key, key, site, now))


@fault("certificate expired", "issued 60 days ago", "own certificate", "STR-201", "expired on")
def expired(place: Place, config: Path) -> Iterator[None]:
    """As after a long holiday."""
    _reissue(place, config, days_ago=60)
    with place.serving():
        yield


@fault(
    "certificate about to expire", "issued 27 days ago", "own certificate", "STR-201", "expires in",
    outcome="warning",
)  # fmt: skip
def expiring(place: Place, config: Path) -> Iterator[None]:
    """Renewal has not worked."""
    _reissue(place, config, days_ago=27)
    with place.serving():
        yield


@fault("certificate not yet valid", "issued for tomorrow", "own certificate", "STR-201", "not yet")
def early(place: Place, config: Path) -> Iterator[None]:
    """Or a clock that is behind, where no server can be asked."""
    _reissue(place, config, days_ago=-2)
    yield


@fault("wrong SAN", "a certificate that names another site", "site name", "STR-206", OTHER)
def wrong_san(place: Place, config: Path) -> Iterator[None]:
    """Of the same consortium."""
    _reissue(place, config, site=OTHER)
    with place.serving():
        yield


@fault("other site's key", "its `site.key` in place of ours", "key pair", "STR-203", "another key")
def other_key(place: Place, config: Path) -> Iterator[None]:
    """Key and certificate of two sites."""
    shutil.copyfile(place.layout.site(OTHER) / "site.key", config.parent / "site.key")
    with place.serving():
        yield


@fault(
    "new key, not enrolled",
    "certificate for a fresh key",
    "admission",
    "STR-206",
    "knows this site with another key",
)
def fresh_key(place: Place, config: Path) -> Iterator[None]:
    """A pair that fits, and that nobody approved."""
    (config.parent / "site.key").unlink()
    write_key(config.parent / "site.key", new_key())
    _reissue(place, config)
    with place.serving():
        yield


@fault("another CA's certificate", "a foreign CA", "own certificate", "STR-201", "not issued")
def foreign(place: Place, config: Path) -> Iterator[None]:
    """From somebody else's consortium."""
    ca, ca_key = make_ca("elsewhere", 30, datetime.now(UTC))
    key = load_key(config.parent / "site.key").public_key()
    made = issue_site(ca, ca_key, key, SITE, datetime.now(UTC))
    write_certificate(config.parent / "site.pem", made)
    with place.serving():
        yield


@fault("CA file replaced", "a foreign `ca.pem`", "CA", "STR-201", "not the one of the consortium")
def foreign_ca(place: Place, config: Path) -> Iterator[None]:
    """The site trusts somebody else."""
    ca, _ = make_ca("elsewhere", 30, datetime.now(UTC))
    write_certificate(config.parent / "ca.pem", ca)
    with place.serving():
        yield


@fault("key readable by others", "chmod 644", "private keys", "STR-202", "chmod 600")
def open_key(place: Place, config: Path) -> Iterator[None]:
    """A copy may be anywhere."""
    (config.parent / "site.key").chmod(0o644)
    with place.serving():
        yield


@fault("runner secret missing", "removed", "runner secret", "STR-101", "openssl rand")
def no_secret(place: Place, config: Path) -> Iterator[None]:
    """Courier and runner do not know each other."""
    (config.parent / "runner.secret").unlink()
    with place.serving():
        yield


def _wait_for_contact(state: Path) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        pulse = read_pulse(state)
        if pulse is not None and pulse.connected_at is not None:
            return
        time.sleep(0.2)
    raise TimeoutError("the courier did not connect")


@fault(
    "two couriers, one identity",
    "a second machine with the same keys",
    "one courier",
    "STR-516",
    "another machine",
)
def elsewhere(place: Place, config: Path) -> Iterator[None]:
    """A courier runs from a copy of the folder; the doctor is where none runs."""
    place.become(config, THIRD)
    twin = place.layout.site(THIRD)
    command = [sys.executable, "-P", "-m", "stillroom.client.cli", "courier", "--config"]
    with place.serving(), place.running([*command, str(twin / "site.toml")], "twin", None):
        _wait_for_contact(twin / "courier")
        time.sleep(1)
        yield


@fault(
    "revoked",
    "`site revoke` while the server runs",
    "admission",
    "STR-206",
    "This site was revoked",
)
def revoked(place: Place, config: Path) -> Iterator[None]:
    """By the operator; this site is another one from here on, since nothing undoes it."""
    place.become(config, THIRD)
    with place.serving():
        server = ["-m", "stillroom.server.cli", "site", "revoke", THIRD]
        command = [sys.executable, "-P", *server, "--config", str(place.server_toml)]
        subprocess.run(command, check=True, capture_output=True)
        yield


@fault(
    "ledger held by another process", "a process with its lock", "courier", "STR-507",
    outcome="warning",
)  # fmt: skip
def held(place: Place, config: Path) -> Iterator[None]:
    """Whoever it is, it is no courier that beats."""
    code = (
        "import fcntl, sys, time\n"
        f"f = open({str(config.parent / 'courier' / 'ledger.jsonl')!r}, 'ab')\n"
        "fcntl.flock(f, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(600)"
    )
    with place.serving():
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()
            process.communicate()


@fault("site.toml misspelt", "an unknown key", "site.toml", "STR-102", "1 problem")
def misspelt(place: Place, config: Path) -> Iterator[None]:
    """One letter."""
    set_toml(config, poll_seconds=1)
    with place.serving():
        yield
