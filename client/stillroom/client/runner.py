"""The runner: the process with the data and the GPU. No network but the courier's loopback port.

It stays up between rounds, so that data, models and imports stay warm, and it runs the ClientApp
that is installed beside it and no other: the run's FAB arrives empty and would not be unpacked,
installed or imported if it did not. What it relies on in flwr 1.41 is held by
tests/client/test_flower_contract.py.
"""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from stillroom.client.app import SITE_CONFIG
from stillroom.client.app import app as installed_app
from stillroom.common.errors import StillroomError
from stillroom.common.messages import failure

log = logging.getLogger(__name__)

POLL_S = 0.1
ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What a runner needs to know; made from ``site.toml``.

    Attributes:
        site_config: The site.toml the ClientApp reads.
        runtime_port: Loopback port of the courier.
        secret: Shared with the courier.
    """

    site_config: Path
    runtime_port: int
    secret: bytes


def run_runner(settings: RunnerSettings, stop: threading.Event) -> None:
    """Take and do tasks until ``stop`` is set; a courier that is away is waited for."""
    poll = _client(
        settings.runtime_port,
        RuntimeVersionHttpInterceptor(component_name="SuperExec"),
        SuperExecAuthHttpInterceptor(master_secret=settings.secret, protected_methods=ACQUIRE),
    )
    while not stop.is_set():
        try:
            answer = poll.AcquireTask(
                AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            )
        except httpx.HTTPError:
            stop.wait(1.0)
            continue
        if not (answer.HasField("task") and answer.token):
            stop.wait(POLL_S)
            continue
        try:
            _do_task(settings, answer.token)
        except httpx.HTTPError:
            # The courier went away mid-task. Its next life asks the server for the message again.
            log.warning("runner.courier_lost")
    poll.close()


def _do_task(settings: RunnerSettings, token: str) -> None:
    client = _client(
        settings.runtime_port,
        RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
        RuntimeTokenHttpInterceptor(token),
    )
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    context: Context | None = None
    try:
        message, context, _run, _fab = pull_task_input(client)
        # Settings are the site's own; whatever the other side put there is not looked at.
        context.node_config = {SITE_CONFIG: str(settings.site_config)}
        push_message(client, answer(installed_app, message, context), context)
    finally:
        push_task_output(client, context, SubStatus.COMPLETED, "")
        heartbeat.stop()
        client.close()


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


def _client(port: int, *interceptors: object) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=f"127.0.0.1:{port}",
        insecure=True,
        root_certificates=None,
        interceptors=list(interceptors),  # type: ignore[arg-type]  # Flower's protocol class
    )
