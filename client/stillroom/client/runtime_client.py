"""The runner's side of the line to its courier: Flower's Runtime API over a socket in a folder.

Flower makes this client for an address on a network. Its requests go through one ``httpx.Client``
that it keeps as ``_client``; here that is one which can reach nothing but the socket, whatever
address or proxy it is given. Held by tests/client/test_flower_contract.py.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import httpx
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from typing_extensions import override

from stillroom.client.runtime_socket import short_name

TIMEOUT_S = 30.0


class SocketRuntimeClient(RuntimeHttpClient):
    """Asks the courier that listens at a path."""

    def __init__(self, path: Path, interceptors: Sequence[ProtobufClientInterceptor]) -> None:
        """Take the socket's path; nothing is opened but its folder, which is made if need be."""
        super().__init__("http://courier", interceptors=interceptors, verify=False)
        self._client.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._name = contextlib.ExitStack()
        transport = httpx.HTTPTransport(
            verify=False, trust_env=False, uds=self._name.enter_context(short_name(path))
        )
        # Without the environment: a proxy that it names would be asked for the courier.
        self._client = httpx.Client(transport=transport, timeout=TIMEOUT_S, trust_env=False)

    @override
    def close(self) -> None:
        super().close()
        self._name.close()
