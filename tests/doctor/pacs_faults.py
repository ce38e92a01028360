"""Faults of the PACS: a real Orthanc that is away, knows another name, or hides behind a firewall."""

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from faults import fault
from place import Place, dropped, set_toml

PORT, WEB, AE = 14242, 18042, "ARCHIVE"


def archive(place: Place) -> AbstractContextManager[Any]:
    """Orthanc, which answers to its own AE title alone."""
    folder = place.out / "orthanc"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = {
        "Name": "matrix",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": WEB,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": AE,
        "DicomPort": PORT,
        "DicomCheckCalledAet": True,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), "utf-8")
    return place.running(["Orthanc", str(folder / "orthanc.json")], "orthanc", PORT)


def use_archive(config: Path, called: str = AE) -> None:
    """Name it in site.toml."""
    data = config.parent / "data"
    (data / "pulled").mkdir()
    dimse = {"host": "127.0.0.1", "port": PORT, "called_ae": called, "calling_ae": "NORTH"}
    set_toml(config, pacs={"folder": str(data / "pulled"), "dimse": {**dimse, "timeout_s": 2}})


@fault("PACS down", "nobody listens", "PACS", "STR-440", "PACS runs")
def down(place: Place, config: Path) -> Iterator[None]:
    """The archive is being mended."""
    use_archive(config)
    with place.serving():
        yield


@fault("PACS behind a firewall", "nftables drops it", "PACS", "STR-440", "firewall")
def blocked(place: Place, config: Path) -> Iterator[None]:
    """Another network of the hospital."""
    use_archive(config)
    with place.serving(), archive(place), dropped(PORT):
        yield


@fault("wrong AE title", "Orthanc, asked under another name", "PACS", "STR-441", "AE title")
def other_name(place: Place, config: Path) -> Iterator[None]:
    """One that the archive does not have."""
    use_archive(config, "PACS1")
    with place.serving(), archive(place):
        yield


@fault("PACS over DICOMweb: no such service", "Orthanc without its plugin", "PACS", "STR-453")
def no_web(place: Place, config: Path) -> Iterator[None]:
    """The root of another service."""
    use_archive(config)
    data = config.parent / "data" / "pulled"
    web = {"url": f"http://127.0.0.1:{WEB}/dicom-web", "timeout_s": 2}
    set_toml(config, pacs={"folder": str(data), "web": web})
    with place.serving(), archive(place):
        yield
