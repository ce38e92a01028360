"""The runner: the process with the data and the GPU. It needs no network, not even ``lo``.

It stays up between rounds, so that data, models and imports stay warm, and it runs the ClientApp
that is installed beside it and no other: the run's FAB arrives empty and would not be unpacked,
installed or imported if it did not. What it relies on in flwr 1.41 is held by
tests/client/test_flower_contract.py.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from stillroom.client.app import SITE_CONFIG
from stillroom.client.app import app as installed_app
from stillroom.client.exchange import RunnerLock
from stillroom.client.runtime_client import SocketRuntimeClient
from stillroom.client.site import Site
from stillroom.common.errors import StillroomError
from stillroom.common.lifetime import patience
from stillroom.common.messages import failure

log = logging.getLogger(__name__)

POLL_S, POLL_MOST_S = 0.05, 0.3
"""Pause between two looks for a task, at first and after some seconds without one; none after a
look that took longer: the courier holds the question until there is a task."""
RETRY_S = 0.2
"""Pause while the courier is away."""
ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What a runner needs to know; made from ``site.toml``.

    Attributes:
        site_config: The site.toml the ClientApp reads.
        runtime_port: Loopback port of the courier; None where it listens in ``exchange``.
        secret: Shared with the courier.
    """

    site_config: Path
    runtime_port: int | None
    secret: bytes


def run_runner(settings: RunnerSettings, stop: threading.Event) -> None:
    """Take and do tasks until ``stop`` is set; a courier that is away is waited for.

    Raises:
        ResourceError: STR-513, another runner works for this site.
        StillroomError: As ``Site.open`` says.
    """
    site = Site.open(settings.site_config)
    site.stop = stop
    poll = _client(
        settings,
        RuntimeVersionHttpInterceptor(component_name="SuperExec"),
        SuperExecAuthHttpInterceptor(master_secret=settings.secret, protected_methods=ACQUIRE),
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    with RunnerLock(site.exchange), contextlib.closing(poll):
        news = time.monotonic()
        while not stop.is_set():
            asked = time.monotonic()
            try:
                given = poll.AcquireTask(request)
                if given.HasField("task") and given.token:
                    _do_task(settings, given.token, stop)
                    news = time.monotonic()
                elif time.monotonic() - asked < POLL_S:
                    stop.wait(min(POLL_MOST_S, patience(time.monotonic() - news, POLL_S)))
            except httpx.HTTPError:
                # Away, perhaps in the middle of a task. Its next life asks the server for the
                # message again, and what was finished is then answered without any work.
                stop.wait(RETRY_S)
            except Exception:
                # A courier that has lost its place may say anything. Nothing it says ends the
                # runner, whose warm memory is worth keeping.
                log.exception("runner.line_failed")
                stop.wait(RETRY_S)


def _do_task(settings: RunnerSettings, token: str, stop: threading.Event) -> None:
    client = _client(
        settings,
        RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
        RuntimeTokenHttpInterceptor(token),
    )
    context: Context | None = None
    with contextlib.closing(client), _heartbeat(client):
        try:
            message, context, _run, _fab = pull_task_input(client)
            # Settings are the site's own; whatever the other side put there is not looked at.
            context.node_config = {SITE_CONFIG: str(settings.site_config)}
            reply = answer(installed_app, message, context)
            if stop.is_set() and reply.has_error():
                # Our own end is no failure of the site: the next runner is given the task again.
                log.info("runner.task_left")
                return
            _deliver(client, reply, context, stop)
        finally:
            # A task that is left open would become an error of Flower's own after a while.
            push_task_output(client, context, SubStatus.COMPLETED, "")


def _deliver(
    client: RuntimeHttpClient, reply: Message, context: Context, stop: threading.Event
) -> None:
    """Push until the courier has all of it; a part that it has is not pushed again.

    Raises:
        HTTPError: The courier does not know the task (any more), or we are told to stop.
    """
    while True:
        try:
            return push_message(client, reply, context)
        except httpx.TransportError:
            # Too busy or halted, or gone: then its next life refuses our token.
            if stop.wait(RETRY_S):
                raise


@contextlib.contextmanager
def _heartbeat(client: RuntimeHttpClient) -> Iterator[None]:
    """Tell the courier that the task is being worked on.

    Flower's own sender interrupts the process when a courier that was restarted does not know the
    task any more. What is being worked on is worth finishing: it will be asked for again.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
            with contextlib.suppress(httpx.HTTPError):
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """The app's reply, or an error that holds nothing but a code.

    The text of an exception may name a file or quote a tag: it goes into this site's log and
    nowhere else.
    """
    try:
        return app(message=message, context=context)
    except StillroomError as error:
        log.warning("runner.refused", extra={"code": error.code, "what": error.what})
        return Message(failure(error), reply_to=message)
    except Exception as error:
        log.exception("runner.failed")
        return Message(failure(error), reply_to=message)


def _client(
    settings: RunnerSettings, *interceptors: ProtobufClientInterceptor
) -> RuntimeHttpClient:
    if settings.runtime_port is None:
        return SocketRuntimeClient(Site.open(settings.site_config).exchange.socket, interceptors)
    return RuntimeHttpClient.from_server_address(
        server_address=f"127.0.0.1:{settings.runtime_port}",
        insecure=True,
        root_certificates=None,
        interceptors=interceptors,
    )
