"""A resident ClientApp process for Flower's SuperNode: ``python flower_runner.py ADDRESS``.

Flower starts one process per message, which costs seconds of imports a round; this one stays,
which is the fastest way to run plain Flower. Everything on the wire is Flower's own.
"""

import sys
import time

import httpx
from flower_apps import client as app
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output


def connect(address: str, *interceptors: object) -> RuntimeHttpClient:
    """A client of the SuperNode's runtime API."""
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=list(interceptors),
        retry_invoker=make_simple_http_retry_invoker(),
    )


def main(address: str) -> None:
    """Do tasks for ever."""
    poll = connect(address, RuntimeVersionHttpInterceptor(component_name="SuperExec"))
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    while True:
        try:
            answer = poll.AcquireTask(request)
        except httpx.HTTPError:
            time.sleep(0.2)
            continue
        if not (answer.HasField("task") and answer.token):
            time.sleep(0.1)
            continue
        task = connect(
            address,
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(answer.token),
        )
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(task))
        heartbeat.start()
        context = None
        try:
            message, context, _run, _fab = pull_task_input(task)
            push_message(task, app(message=message, context=context), context)
        finally:
            push_task_output(task, context, SubStatus.COMPLETED, "")
            heartbeat.stop()
            task.close()


if __name__ == "__main__":
    main(sys.argv[1])
