"""The layers of Flower's application that a request passes, without those that have nothing to do.

What this relies on in flwr 1.41 is held by tests/server/test_flower_contract.py.
"""

import os

from fastapi import FastAPI
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink.config_loader import get_license_plugin
from flwr.superlink.routers.control.middlewares import (
    ControlEventLogMiddleware,
    ControlLicenseMiddleware,
)
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware


def without_idle_layers(app: FastAPI) -> FastAPI:
    """Take out the layers that have nothing to do as we start Flower: logs of events, licences, traces.

    Every layer costs a task and two streams per request, and a round is sixty requests: without
    these four a request costs half. Authentication, translation and errors stay.
    """
    idle = set[object]()
    if app.state.control_event_log_plugin is None and app.state.fleet_event_log_plugin is None:
        idle |= {ControlEventLogMiddleware, FleetEventLogMiddleware}
    if get_license_plugin() is None:
        idle.add(ControlLicenseMiddleware)
    if os.environ.get("FLWR_TRACING_ENABLED") != "1":
        idle.add(RuntimeTracingMiddleware)
    app.user_middleware = [layer for layer in app.user_middleware if layer.cls not in idle]
    return app
