"""The layers of Flower's application that a request passes, without those that have nothing to do.

What this relies on in flwr 1.41 is held by tests/server/test_flower_contract.py.
"""

import os

from fastapi import FastAPI
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink.config_loader import get_license_plugin
from flwr.superlink.routers.control.middlewares import (
    ControlAuthenticationMiddleware,
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
    ControlSensitiveResponseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

CONTROL, FLEET = "/v1/control/", "/v1/fleet/"
PLACES: dict[object, str] = {
    ControlSensitiveResponseMiddleware: CONTROL,
    ControlAuthenticationMiddleware: CONTROL,
    NodeAuthMiddleware: FLEET,
}
"""Layers that look at requests below one path and hand every other on."""


class LayerBelow:
    """A layer for the requests below a path; every other goes past it.

    Args:
        app: What is behind it.
        layer: Makes it.
        path: Beginning of the paths that it is for.
    """

    def __init__(self, app: ASGIApp, layer: Middleware, path: str) -> None:
        self._past, self._path = app, path
        self._through: ASGIApp = layer.cls(app, *layer.args, **layer.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        below = scope.get("path", "").startswith(self._path)
        await (self._through if below else self._past)(scope, receive, send)


def without_idle_layers(app: FastAPI) -> FastAPI:
    """Take out the layers that have nothing to do as we start Flower: logs of events, licences, traces.

    Every layer costs a task and two streams per request, and a round is a hundred requests: without
    these four a request costs half. Authentication, translation and errors stay; of them, those
    that are for one kind of request see no other.
    """
    idle = set[object]()
    if app.state.control_event_log_plugin is None and app.state.fleet_event_log_plugin is None:
        idle |= {ControlEventLogMiddleware, FleetEventLogMiddleware}
    if get_license_plugin() is None:
        idle.add(ControlLicenseMiddleware)
    if os.environ.get("FLWR_TRACING_ENABLED") != "1":
        idle.add(RuntimeTracingMiddleware)
    kept = (layer for layer in app.user_middleware if layer.cls not in idle)
    app.user_middleware = [
        Middleware(LayerBelow, layer, PLACES[layer.cls]) if layer.cls in PLACES else layer
        for layer in kept
    ]
    return app
