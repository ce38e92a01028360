"""A hospital's PACS: a real Orthanc in its namespace, and scans pulled from it by a container."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pydicom
from checks import Checks
from places import Place

USER, PASSWORD = "stillroom", "s3cret"
PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
URL = "http://127.0.0.1:8042"
SEND = """
import sys
from pathlib import Path
import requests
for path in Path(sys.argv[1]).rglob("*.dcm"):
    requests.post(sys.argv[2] + "/instances", data=path.read_bytes(), auth=(sys.argv[3], sys.argv[4]),
                  timeout=60).raise_for_status()
"""


def start(hospital: Place, scratch: Path) -> subprocess.Popen[bytes]:
    """Orthanc with DICOMweb and a password, on the hospital's own loopback."""
    folder = scratch / "orthanc"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [PLUGIN],
        "HttpPort": 8042,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomServerEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    with (folder / "log").open("wb") as log:
        command = hospital.network.command(hospital.name, ["Orthanc", str(folder / "orthanc.json")])
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)


def fill(hospital: Place, scans: Path) -> tuple[int, list[str]]:
    """Move the hospital's unlabelled scans into its PACS; how many objects, of which studies."""
    files = list(scans.rglob("*.dcm"))
    uids = {pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID for path in files}
    time.sleep(3)
    send = [sys.executable, "-c", SEND, str(scans), URL, USER, PASSWORD]
    subprocess.run(hospital.network.command(hospital.name, send), check=True, capture_output=True)
    shutil.rmtree(scans)
    scans.mkdir()
    return len(files), sorted(map(str, uids))


def pull(hospital: Place, count: int, uids: list[str], checks: Checks) -> None:
    """What a person adds to site.toml, and the pull; every object arrives without identity."""
    secret = hospital.folder / "pacs.password"
    secret.write_text(PASSWORD + "\n", "utf-8")
    secret.chmod(0o600)
    os.chown(secret, 10002, 10000)
    toml = hospital.folder / "site.toml"
    text = toml.read_text("utf-8").replace(
        'data = ["/data/cardiac-ct"]', 'data = ["/data/cardiac-ct", "/data/pulled"]'
    )
    web = f'url = "{URL}/dicom-web", user = "{USER}", password_file = "pacs.password"'
    pacs = f'\n[pacs]\nfolder = "/data/pulled"\nweb = {{ {web} }}\nkeep_free_mib = 0\n'
    toml.write_text(text + pacs, "utf-8")
    site = ["--config", "/stillroom/site.toml"]
    wanted = [word for uid in uids for word in ("--study-uid", uid)]
    hospital.once("pull", "data", "pull", *site, *wanted, "--json")
    here = hospital.volume("pulled")
    found = [path for path in here.rglob("*") if path.is_file() and path.suffix == ".dcm"]
    named = [
        p for p in found if str(pydicom.dcmread(p, stop_before_pixels=True).get("PatientName", ""))
    ]
    checks.hold(
        f"{hospital.name}: scans pulled from a real Orthanc by DICOMweb, none lost, none with a name",
        (len(found), len(named)),
        want=(count, 0),
        detail=f"{len(found)} objects",
    )
