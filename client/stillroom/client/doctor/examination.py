"""What a doctor looks at: one site.toml and the machine it is on, each read once."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from stillroom.client.config import SiteConfig
from stillroom.client.doctor.line import LineSeen, look_along
from stillroom.client.pinning import pinned
from stillroom.client.pulse import Pulse, read_pulse
from stillroom.common.consortium import Consortium
from stillroom.common.errors import TrustError
from stillroom.common.signed_study import SignedStudy
from stillroom.common.study import PreparedStudy


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Examination:
    """One site, looked at now.

    Attributes:
        path: site.toml.
        system: Root of ``/proc``, ``/sys`` and ``/dev``; another one in tests.
        clock: Aware, UTC.
        env: Environment, for what it says about proxies.
        patience_s: Longest wait for one step of the network.
    """

    path: Path
    system: Path = Path("/")
    clock: Callable[[], datetime] = _now
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    patience_s: float = 5.0

    @cached_property
    def config(self) -> SiteConfig:
        """site.toml; raises ConfigError."""
        return SiteConfig.load(self.path)

    @cached_property
    def line(self) -> LineSeen:
        """The way to the server, walked once."""
        return look_along(self.config, self.clock, self.patience_s)

    @cached_property
    def consortium(self) -> Consortium:
        """The consortium this site joined.

        Raises:
            TrustError: STR-213, none; STR-207, its description is damaged.
            ConfigError: STR-101.
        """
        if self.config.consortium is None:
            raise TrustError(
                "There is no consortium.json: nobody's signature under the study can be checked.",
                fix="Enrol this site with `stillroom-client init` or `enrol`, or restore the file.",
                code="STR-213",
            )
        return pinned(self.config.consortium)

    @cached_property
    def prepared(self) -> PreparedStudy:
        """The study, its signature checked where there is a consortium."""
        if self.config.consortium is None:
            return PreparedStudy.load(self.config.study)
        return SignedStudy.load(self.config.study, self.consortium.operator_keys).prepared

    @cached_property
    def pulse(self) -> Pulse | None:
        """The courier's, where it can be read."""
        return read_pulse(self.config.courier_state)

    @property
    def now(self) -> datetime:
        """By this machine's clock."""
        return self.clock()

    def monotonic(self) -> float:
        """For measuring waits."""
        return time.monotonic()
