"""What a TLS scanner makes of the two listeners that can be reached from outside.

A consortium is founded in a temporary folder and its server started; testssl.sh (Debian: package
``testssl.sh``) then tries every protocol version, cipher and known weakness against the edge, which
hospitals reach with their certificate, and against the door, where they ask for one.

    python -P tests/boundary/scan.py [--out FOLDER]

Findings of severity LOW and above go to standard output, the whole reports into FOLDER. It ends with
status 1 when a listener offers anything before TLS 1.3 or a finding is worse than the ones that
``EXPECTED`` explains.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import handshakes  # beside this file, which is no package

TESTSSL = "testssl"
"""Its name on Debian."""
OLD = ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2")
EXPECTED = {
    "cert_chain_of_trust": "the consortium's own CA: sites pin its fingerprint, no public CA is asked",
    "cert_notRevoked": "nothing to ask: the courier knows its one server by the pinned CA",
    "cert_revocation": "likewise; a site's certificate lives 30 days and is looked up on every request",
    "DNS_CAArecord": "the server is reached by an address or a name of its own; no public CA issues",
    "HSTS": "no browser comes here",
    "security_headers": "likewise",
}
"""Findings of a consortium's own CA, with why they are as they should be."""


def scan(port: int, folder: Path, name: str) -> list[dict[str, str]]:
    """Every finding of testssl.sh about a listener on loopback."""
    report = folder / f"{name}.json"
    report.unlink(missing_ok=True)
    command = [TESTSSL, "--quiet", "--color", "0", "--warnings", "off", "--ip", "127.0.0.1"]
    with (folder / f"{name}.txt").open("wb") as text:
        subprocess.run(
            [*command, "--jsonfile", str(report), f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=text,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=900,
        )
    found: list[dict[str, str]] = json.loads(report.read_text("utf-8"))
    return found


def version() -> str:
    """As testssl.sh tells it."""
    done = subprocess.run(
        [TESTSSL, "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    found = re.search(r"testssl\S*\s+(\d+(\.\d+)+)", done.stdout)
    return f"testssl.sh {found[1]}" if found else "testssl.sh of an unknown version"


def main() -> int:
    """Scan both listeners; 1 when something is worse than explained, 2 without testssl.sh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if shutil.which(TESTSSL) is None:
        sys.stderr.write("testssl.sh is not installed; on Debian: apt-get install testssl.sh\n")
        return 2
    sys.stdout.write(f"{version()}\n")
    worse = 0
    with (
        tempfile.TemporaryDirectory() as scratch,
        handshakes.live_server(Path(scratch)) as bench,
    ):
        folder = given.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name, port in (("edge", bench.ports.edge), ("door", bench.ports.enrol)):
            for row in scan(port, folder, name):
                offered = row["id"] in OLD and "not offered" not in row["finding"]
                bad = offered or row["severity"] in {"LOW", "MEDIUM", "HIGH", "CRITICAL"}
                explained = EXPECTED.get(row["id"], "")
                worse += bad and not explained
                if bad or row["id"].startswith(("TLS1", "SSL")):
                    words = f"{row['severity']:8s} {row['id']}: {row['finding']}"
                    sys.stdout.write(f"{name}  {words}{f'  ({explained})' if explained else ''}\n")
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
