"""What ``init`` asks, and what it makes of the answers. No screen and no network in here."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from stillroom.client.site_file import SiteForm
from stillroom.common.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")
FOLDERS = {"state": 0o700, "courier": 0o700, "exchange": 0o750}
"""What is made beside site.toml, and for whom; folders that are there keep their rights."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known so far; None is not answered yet."""

    server: str | None = None
    token: str | None = None
    fingerprint: str | None = None
    data: tuple[str, ...] = ()
    edge: str | None = None
    study: str | None = None
    device: str | None = None
    kit: Path | None = None

    def checked(self) -> "Answers":
        """The same, complete and usable.

        Raises:
            ConfigError: STR-100, an answer is missing or cannot be used.
        """
        missing = [f"--{q.key}" for q in QUESTIONS if q.is_open(self) and q.default == ""]
        if missing:
            raise ConfigError(
                f"Missing: {', '.join(missing)}.", fix="Give these options, or leave out --no-ask."
            )
        for key in ("server", "edge"):
            value = getattr(self, key)
            if value is not None and not _is_address(value):
                raise ConfigError(f"--{key} is not HOST:PORT.", fix="Write host, colon, port.")
        if self.device is not None and self.device not in DEVICES:
            raise ConfigError("--device is unknown.", fix="Give auto, cpu or cuda.")
        if self.kit is not None and self.edge is None:
            raise ConfigError("--edge is missing.", fix="Give HOST:PORT of the consortium's edge.")
        return self

    def remarks(self) -> Iterator[str]:
        """What is worth saying before anything is done."""
        for folder in self.data:
            if not Path(folder).is_dir():
                yield (
                    f"{folder} is not visible from here. That is right in the courier's container; "
                    "the runner has to see it."
                )
            elif os.access(folder, os.W_OK) and os.geteuid() != 0:
                yield f"{folder} can be written from here; read-only is enough."

    @property
    def form(self) -> SiteForm:
        """What goes into site.toml."""
        edge = self.edge or f"{str(self.server).rpartition(':')[0]}:443"
        return SiteForm(
            server=edge,
            data=tuple(os.path.abspath(folder) for folder in self.data),  # noqa: PTH100  # no links
            study=self.study or "study",
            device=self.device or "auto",
        )


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask.

    Attributes:
        key: Of the answer, and of the option.
        text: On the screen.
        is_open: Whether it still is.
        default: What Enter means; empty where an answer is needed.
    """

    key: str
    text: str
    is_open: Callable[[Answers], bool]
    default: str = ""


QUESTIONS = (
    Question(
        "server",
        "HOST:PORT for enrolment (from the operator)",
        lambda a: a.server is None and a.kit is None,
    ),
    Question("token", "Token (from the operator)", lambda a: a.token is None and a.kit is None),
    Question(
        "fingerprint",
        "The CA's fingerprint (from the operator, by another way)",
        lambda a: a.fingerprint is None,
    ),
    Question("data", "Folder with scans and labels (commas between several)", lambda a: not a.data),
    Question("study", "Folder of the signed study", lambda a: a.study is None, "study"),
    Question("device", "Device: auto, cpu or cuda", lambda a: a.device is None, "auto"),
)


def with_answer(answers: Answers, key: str, said: str) -> Answers:
    """The answers with one more."""
    if key == "data":
        return replace(answers, data=tuple(p.strip() for p in said.split(",") if p.strip()))
    return replace(answers, **{key: said.strip()})  # type: ignore[arg-type]  # keys of QUESTIONS


def refuse_if_there(folder: Path) -> None:
    """Leave a site that is set up alone.

    Raises:
        ConfigError: STR-107.
    """
    if (folder / "site.toml").exists():
        raise ConfigError(
            f"{folder / 'site.toml'} exists already.",
            fix="Edit it, or name another folder; `stillroom-client doctor` says what is wrong.",
            code="STR-107",
        )


def make_folders(folder: Path) -> None:
    """The folders that site.toml names beside itself.

    Raises:
        ConfigError: STR-110, one cannot be made.
    """
    for name, mode in FOLDERS.items():
        try:
            (folder / name).mkdir(mode=mode)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"The folder {name} cannot be made: {error.strerror}.",
                fix="Give the folder of site.toml to this account.",
                code="STR-110",
            ) from error


def _is_address(text: str) -> bool:
    try:
        where = urlsplit(f"//{text}")
        return bool(where.hostname) and where.port is not None and "/" not in text
    except ValueError:
        return False
