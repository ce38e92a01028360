"""A first site.toml, commented, from a few answers."""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SiteForm:
    """What a site.toml cannot do without, and what most sites change first.

    Attributes:
        server: ``host:port`` of the edge.
        data: Folders with scans and labels, as they are to be written down.
        study: Folder of the signed study.
        device: ``auto``, ``cpu`` or ``cuda``.
        keep_days: Of pseudo-labels.
    """

    server: str
    data: tuple[str, ...] = ("/data/cardiac-ct",)
    study: str = "study"
    device: str = "auto"
    keep_days: int = 7

    def text(self, site: str) -> str:
        """The file, for the site of that name."""
        data = ", ".join(map(_quoted, self.data))
        return f"""\
# site.toml: the one file this hospital edits. Every key: docs/reference/site-config.md.
# Relative paths are relative to this file's folder.

site = {_quoted(site)}
server = {_quoted(self.server)}        # the only address this site ever dials: the edge
data = [{data}]        # scans and labels; read only
state = "state"                    # the runner's: working copies and records; stays on this disk
exchange = "exchange"              # both see it: consents, global models, updates
courier_state = "courier"          # the courier's: the ledger of what left
study = {_quoted(self.study)}                    # the prepared, signed study, once you have it
consortium = "consortium.json"     # pinned when this site was enrolled
runner_secret = "runner.secret"
device = {_quoted(self.device)}                    # auto, cpu or cuda
keep_pseudo_labels_days = {self.keep_days}

[tls]
ca = "ca.pem"
certificate = "site.pem"           # renews itself
private_key = "site.key"           # made here, never leaves

# Where this site keeps what the study calls `chambers`, for example:
# [labels.chambers]
# files = "segmentations/**/*.nii.gz"
# classes = {{ LV = 1, RV = 2 }}
"""


def _quoted(text: str) -> str:
    """As a TOML basic string, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)
