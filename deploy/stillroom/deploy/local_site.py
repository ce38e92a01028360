"""One site of a rehearsal in one process: a courier and a runner without anything between them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context, Message

from stillroom.client.app import SITE_CONFIG
from stillroom.client.app import app as client_app
from stillroom.client.config import SiteConfig
from stillroom.client.gate import KINDS, leaving
from stillroom.client.models import Models
from stillroom.client.outbox import Outbox, Sealed
from stillroom.client.runner import answer
from stillroom.client.site import Site
from stillroom.client.witness import Witness
from stillroom.common.errors import ContractError, StillroomError
from stillroom.common.messages import ROUND, failure, pack_reply, read_reply, read_task
from stillroom.common.pki.files import load_signing_key
from stillroom.common.signing import public_key_hex
from stillroom.common.tensorfile import PIECE
from stillroom.common.update import check_task
from stillroom.deploy.consortium_files import Layout
from stillroom.server.depot import Depot
from stillroom.server.logbook import Logbook


@dataclass(frozen=True, slots=True)
class LocalSite:
    """The pieces of the field, put together by calls.

    Attributes:
        site: The runner's side.
        context: What Flower gives the ClientApp.
        models: The courier's store of global models.
        outbox: Where the gate makes what may leave.
        depot: The other end of the line.
        witness: This site's eyes on the consortium's log; None without one.
    """

    site: Site
    context: Context
    models: Models
    outbox: Outbox
    depot: Depot
    witness: Witness | None = None

    @classmethod
    def open(
        cls, context: Context, site_config: Path, depot: Depot, book: Logbook | None = None
    ) -> "LocalSite":
        """The site of a site.toml; raises as ``Site.open`` does."""
        context.node_config = {SITE_CONFIG: str(site_config)}
        site = Site.open(site_config)
        config, exchange, prepared = site.config, site.exchange.prepare(), site.prepared

        def fetch(sha256: str, nbytes: int, into: Path) -> int:
            found = depot.outgoing(sha256)
            if found is None:
                raise ContractError(
                    "The depot has no such file.", fix="Look at the run's record.", code="STR-311"
                )
            into.unlink(missing_ok=True)
            # A link: two hundred sites hold one model. Nobody writes into a file that is there.
            into.hardlink_to(found)
            return nbytes

        return cls(
            site=site,
            context=context,
            models=Models(
                exchange, prepared, config.study, fetch, config.courier_state / "models.json"
            ),
            outbox=Outbox.below(config.courier_state, exchange, prepared),
            depot=depot,
            witness=None if book is None else _witness(config, book),
        )

    def answer(self, message: Message) -> Message:
        """What leaves this site in answer to ``message``, once its file has left."""
        try:
            kind, task = KINDS[message.metadata.message_type], read_task(message)
            check_task(kind, task, self.site.prepared)
            if self.witness is not None:
                self.witness.look()
            for stage, model in task.models.items():
                self.models.bring(stage, model)
            self.models.forget_others(task.models)
            given = answer(client_app, message, self.context)
            if given.has_error():
                return given
            base = task.models[task.stage].sha256 if kind == ROUND else ""
            reply, sealed = leaving(
                kind, task.stage, task.round, read_reply(given), self.outbox, base
            )
            if sealed is not None:
                self._send(sealed)
        except StillroomError as error:
            return Message(failure(error), reply_to=message)
        return Message(pack_reply(reply), reply_to=message)

    def _send(self, sealed: Sealed) -> None:
        """Have the depot hold the file; as over the line, only what it lacks."""
        site, name, size = self.site.config.site, sealed.ref.sha256, sealed.ref.nbytes
        offset, whole = self.depot.have(site, name)
        if whole:
            return
        with sealed.path.open("rb") as stream:
            stream.seek(offset)
            pieces = iter(lambda: stream.read(PIECE), b"")
            self.depot.append(site, name, pieces, offset=offset, total=size)


@dataclass(frozen=True, slots=True)
class LocalLine:
    """The way to a log that lies on this machine.

    Attributes:
        book: The log.
        site: Who asks.
        key: Its signing key, public half, hex.
    """

    book: Logbook
    site: str
    key: str

    def published(self, path: str) -> bytes | None:
        """A file of the log."""
        try:
            return (self.book.log.folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def vouch(self, note: bytes) -> bool:
        """Hand in a cosigned checkpoint."""
        self.book.cosigned.take(self.book.log, self.site, self.key, note)
        return True


def look_again(layout: Layout, sites: Iterable[str], book: Logbook) -> None:
    """Every site looks at the log once more, as its courier would within minutes."""
    for name in sites:
        witness = _witness(SiteConfig.load(layout.site_config(name)), book)
        if witness is not None:
            witness.look()


def _witness(config: SiteConfig, book: Logbook) -> Witness | None:
    if config.consortium is None:
        return None
    key = load_signing_key(config.signing_key)
    return Witness(
        site=config.site,
        consortium=config.consortium,
        state=config.courier_state,
        line=LocalLine(book, config.site, public_key_hex(key)),
        key=key,
        note=lambda: None,
    )
