"""Whether the PACS answers, and what is said where it does not. Against a real Orthanc."""

from pathlib import Path
from typing import Any

import pytest

from stillroom.client.config import SiteConfig, TlsSection
from stillroom.client.pacs.opening import PacsCheck, check_pacs
from stillroom.client.pacs.section import PacsSection


def checked(pacs: PacsSection | None) -> PacsCheck | None:
    """What `doctor` would see; the rest of site.toml does not matter."""
    here = Path("nowhere")
    tls = TlsSection(ca=here, certificate=here, private_key=here)
    return check_pacs(
        SiteConfig(
            site="north", server="x:1", data=(here,), state=here, study=here, tls=tls, pacs=pacs
        )
    )


@pytest.mark.parametrize("way", ["web", "dimse"])
def test_a_pacs_that_answers(orthanc: Any, tmp_path: Path, way: str) -> None:
    """Both ways say so, and say nothing else."""
    seen = checked(getattr(orthanc, way)(tmp_path))

    assert seen is not None
    assert seen.reachable, seen
    assert (seen.code, seen.fix) == ("", "")


def test_no_pacs_no_check() -> None:
    """A site without [pacs] has nothing that could fail."""
    assert checked(None) is None


FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "web down": ("web", {"url": "http://127.0.0.1:9/dicom-web"}, "STR-440"),
    "web user": ("web", {"user": "somebody"}, "STR-444"),
    "web path": ("web", {"url": "{root}/elsewhere"}, "STR-453"),
    "web not tls": ("web", {"url": "https://127.0.0.1:{http}/dicom-web"}, "STR-445"),
    "dimse down": ("dimse", {"port": 9}, "STR-440"),
    "dimse called": ("dimse", {"called_ae": "OTHER"}, "STR-441"),
    "dimse calling": ("dimse", {"calling_ae": "NOBODY"}, "STR-442"),
    "dimse not dicom": ("dimse", {"port": "{http}"}, "STR-443"),
    "dimse not tls": ("dimse", {"tls": True, "retrieve": "get"}, "STR-445"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_code(orthanc: Any, tmp_path: Path, name: str) -> None:
    """Named, with what to do, and without the name of anybody or a traceback."""
    way, changes, code = FAULTS[name]
    values = {"http": orthanc.http, "root": f"http://127.0.0.1:{orthanc.http}"}
    filled = {k: v.format(**values) if isinstance(v, str) else v for k, v in changes.items()}

    seen = checked(getattr(orthanc, way)(tmp_path, **{way: filled}))

    assert seen is not None
    assert not seen.reachable
    assert seen.code == code, seen
    assert seen.fix.endswith(".")
