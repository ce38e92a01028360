"""A hospital and its consortium in a network of their own, for faults to be injected into.

``enter`` puts this process into network and mount namespaces: firewall rules, ``/etc/hosts``, full
disks and folders mounted read-only are real there and touch nothing outside. The server, the proxy and
whoever stands in the way are processes of their own.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from stillroom.client.config import SiteConfig
from stillroom.client.intake.store import CaseInfo, CaseStore
from stillroom.common.canonical import canonical_bytes
from stillroom.common.manifest import Manifest, TensorSpec
from stillroom.common.pki.files import load_certificate, load_key
from stillroom.common.study import PreparedStage, PreparedStudy, Study
from stillroom.common.tensorfile import write_durably, write_weights
from stillroom.deploy.consortium_files import (
    Layout,
    agree,
    found_consortium,
    write_server_config,
    write_site_config,
)
from stillroom.server.config import ServerConfig
from stillroom.server.enrolment import Authority
from stillroom.server.foundation import renew_server_certificate

HOST, SITE, OTHER, THIRD = "fl.stillroom.test", "north", "river", "summit"
INNER = 18000
COHORT, CASES = 3, 4
INSIDE = "STILLROOM_DOCTOR_INSIDE"


def enter() -> None:
    """Run this script again in namespaces of its own, unless it is there already."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    command = ["unshare", "--net", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*command, sys.executable, "-P", *sys.argv], env={**os.environ, INSIDE: "1"}, check=False
    )
    sys.exit(done.returncode)


@dataclass
class Place:
    """Everything on disk, and the processes.

    Attributes:
        out: A new folder.
        port: The edge's.
        host: The name that the site dials.
        processes: Started and not ended yet.
    """

    out: Path
    port: int = 18443
    host: str = HOST
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _server: contextlib.ExitStack | None = None

    @property
    def layout(self) -> Layout:
        """Where things are."""
        return Layout(self.out)

    @property
    def pristine(self) -> Path:
        """The hospital without a fault."""
        return self.layout.site(SITE)

    @property
    def server_toml(self) -> Path:
        """The operator's."""
        return self.layout.server / "server.toml"

    def found(self) -> None:
        """Consortium, study, two sites, scans and working copies of one."""
        layout = self.layout
        prepared = prepare_study(layout.study)
        found_consortium(layout, [SITE, OTHER, THIRD])
        write_server_config(layout, edge_port=self.port, inner_port=INNER)
        self._certify_host()
        for name in (SITE, OTHER, THIRD):
            data = layout.site(name) / "data"
            _write_scans(data)
            write_site_config(
                layout, name, server_port=self.port, data=[data], labels={}, threads=1, seed=0
            )
            set_toml(layout.site_config(name), server=f"{self.host}:{self.port}")
            for folder in ("state", "courier", "exchange"):
                (layout.site(name) / folder).mkdir(exist_ok=True, mode=0o700)
                (layout.site(name) / folder).chmod(0o700)
        agree(layout, [SITE, OTHER, THIRD])
        _write_cases(self.pristine / "state", prepared.digest)

    def _certify_host(self) -> None:
        config = ServerConfig.load(self.server_toml)
        authority = Authority.load(config)
        hosts = ["127.0.0.1", "localhost", self.host]
        renew_server_certificate(authority, config.tls, hosts, datetime.now(UTC))

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """The real server, which goes on behind all faults: it is started once."""
        if self._server is None:
            self._server = contextlib.ExitStack()
            self._server.enter_context(
                self.running(self._serve(self.server_toml), "server", self.port)
            )
        yield

    @contextlib.contextmanager
    def serving_too(self, prelude: str, port: int) -> Iterator[None]:
        """Another server of the same consortium; ``prelude`` is Python that it runs first."""
        folder = self.out / "server-too"
        shutil.copytree(self.layout.server, folder)
        set_toml(folder / "server.toml", edge_port=port, inner_port=INNER + 1)
        try:
            with self.running(self._serve(folder / "server.toml", prelude), "server-too", port):
                yield
        finally:
            shutil.rmtree(folder)

    @staticmethod
    def _serve(config: Path, prelude: str = "") -> list[str]:
        code = (
            f"{prelude}\nfrom stillroom.server.cli import app\n"
            f"app(['serve', '--config', {str(config)!r}, '--follow-parent', '{os.getpid()}'])"
        )
        return [sys.executable, "-P", "-c", code]

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.close()

    @contextlib.contextmanager
    def running(
        self, command: list[str], name: str, port: int | None, env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A process, from its first answer at ``port`` to the end of the block."""
        self.layout.logs.mkdir(exist_ok=True)
        with (self.layout.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        self.processes.append(process)
        try:
            if port is not None:
                wait_for_port(port, process)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.processes.remove(process)

    @contextlib.contextmanager
    def hospital(self) -> Iterator[Path]:
        """A copy of the hospital to do harm to; its site.toml."""
        folder = self.out / "now"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.pristine, folder)
        set_toml(folder / "site.toml", data=[str(folder / "data")])
        try:
            yield folder / "site.toml"
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def become(self, config: Path, site: str) -> None:
        """Have the hospital be another site, with all its papers."""
        for name in ("site.key", "site.pem", "signing.key", "signing.pub"):
            shutil.copyfile(self.layout.site(site) / name, config.parent / name)
        consents = self.layout.site(site) / "exchange" / "consents"
        shutil.copytree(consents, config.parent / "exchange" / "consents", dirs_exist_ok=True)
        set_toml(config, site=site)

    @property
    def authority(self) -> tuple[Any, Any]:
        """The CA and its key."""
        server = self.layout.server
        return load_certificate(server / "ca.pem"), load_key(server / "ca.key")


def set_toml(path: Path, **changes: Any) -> None:
    """Change keys of a TOML file; None takes one away."""
    value = tomllib.loads(path.read_text("utf-8"))
    for key, new in changes.items():
        if new is None:
            value.pop(key, None)
        else:
            value[key] = new
    path.write_text(tomli_w.dumps(value), "utf-8")


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    """Until somebody listens at loopback.

    Raises:
        TimeoutError: Nobody did, or the process ended.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens at {port}")


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A mount at ``folder``, taken away with the block."""
    subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder, mounted over itself read-only."""
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


@contextlib.contextmanager
def full(folder: Path, kib: int = 64) -> Iterator[None]:
    """A small disk in place of the folder, without a byte left."""
    with mounted(folder, "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "tmpfs"):
        with contextlib.suppress(OSError), (folder / "ballast").open("wb") as stream:
            while True:
                stream.write(b"\0" * 4096)
                stream.flush()
        yield


@contextlib.contextmanager
def names(table: Mapping[str, str]) -> Iterator[None]:
    """What names stand for, while the block lasts: another ``/etc/hosts``, and no DNS server."""
    descriptor, path = tempfile.mkstemp(prefix="hosts-")
    os.close(descriptor)
    fresh = Path(path)
    fresh.chmod(0o644)
    fresh.write_text("".join(f"{at} {name}\n" for name, at in table.items()), "ascii")
    try:
        with mounted(Path("/etc/hosts"), "--bind", str(fresh)):
            yield
    finally:
        fresh.unlink()


@contextlib.contextmanager
def dropped(port: int) -> Iterator[None]:
    """A firewall that drops what goes to ``port`` without a word."""
    rules = f"""table inet blocked {{ chain out {{
        type filter hook output priority 0; policy accept;
        tcp dport {port} drop;
    }}
    }}"""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", "blocked"], check=True)


@contextlib.contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Variables, while the block lasts."""
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def system_with(root: Path, *, memory: int = 64 << 30, limit: int | None = None) -> Path:
    """A root with what the kernel would say of memory and of a cgroup's limit; no GPU."""
    (root / "proc/self").mkdir(parents=True)
    (root / "dev").mkdir()
    kib = memory >> 10
    (root / "proc/meminfo").write_text(f"MemTotal: {kib} kB\nMemAvailable: {kib} kB\n")
    (root / "proc/self/cgroup").write_text("0::/\n")
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{limit if limit is not None else 'max'}\n")
    (group / "memory.current").write_text("1048576\n")
    return root


def study_of(config: Path) -> PreparedStudy:
    """The study of a site.toml."""
    return PreparedStudy.load(SiteConfig.load(config).study)


def prepare_study(folder: Path, min_sites: int = 1) -> PreparedStudy:
    """A study of two stages with tiny weights, as `study prepare` leaves it."""
    study = Study.parse(
        {
            "study": {
                "name": "matrix",
                "min_cohort": COHORT,
                "quorum": {"min_sites": min_sites},
            },
            "volume": {"spacing_mm": [6, 6, 6], "patch": [32, 32, 32]},
            "label": {"vessels": {"kind": "mask", "classes": ["aorta"]}},
            "model": {
                "student": {"arch": "light-swin", "feature_size": 12},
                "teacher": {"arch": "dynunet", "channels": [4, 8, 8]},
            },
            "stage": [
                {"name": "teach", "recipe": "teach", "label": "vessels", "rounds": 1},
                {"name": "student", "recipe": "distil", "rounds": 1},
            ],
        }
    )
    folder.mkdir(parents=True)
    weights = {"trunk.w": np.zeros((4, 4), np.float32)}
    initial = write_weights(folder / "weights", weights)
    spec = TensorSpec(name="trunk.w", shape=(4, 4), dtype="float32", group="trunk")
    stage = PreparedStage(initial_sha256=initial, manifest=Manifest(tensors=(spec,)))
    prepared = PreparedStudy(study=study, stages={"teach": stage, "student": stage})
    write_durably(folder / "study.json", canonical_bytes(prepared.model_dump(mode="json")))
    return prepared


def _write_cases(state: Path, digest: str) -> None:
    store = CaseStore(state / "studies" / digest[:16])
    for number in range(CASES):
        info = CaseInfo(
            f"case-{number}", (2, 2, 2), (6.0, 6.0, 6.0), (0.0, 0.0, 0.0), masks=("vessels",)
        )
        mask = {"vessels": np.ones((2, 2, 2), np.uint8)}
        store.write_case(info, np.zeros((2, 2, 2), np.int16), mask)
        note = store.root / info.id / "source.json"
        note.write_text(json.dumps({"origin": "elsewhere"}), "utf-8")


def _write_scans(folder: Path) -> None:
    """One CT series of three small slices."""
    folder.mkdir(parents=True)
    series = generate_uid()
    for number in range(3):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "CT", series, series
        data.Rows = data.Columns = 4
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation, data.SamplesPerPixel = 1, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelSpacing, data.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [0, 0, number]
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = bytes(32)
        data.save_as(folder / f"slice-{number}.dcm", enforce_file_format=True)
