"""A whole consortium on one machine: real processes, real mutual TLS, the code that runs in the field.

::

    OUT/study/     the prepared study every site accepted
    OUT/server/    server.toml, key, Flower's state, what the edge saw
    OUT/sites/     one hospital each: site.toml, key, data, state
    OUT/run/       records and weights of the run
    OUT/logs/      one log per process
    OUT/summary.json  OUT/report.html  OUT/release/
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillroom.common.errors import ConfigError, ResourceError
from stillroom.common.nn.prepare import prepare_study
from stillroom.common.study import Study
from stillroom.deploy.consortium_files import (
    Layout,
    agree,
    found_consortium,
    tell_server,
    write_server_config,
    write_site_config,
)
from stillroom.deploy.hospitals import Hospital, make_hospitals, site_specs
from stillroom.deploy.processes import Processes, free_ports
from stillroom.server.config import ServerConfig
from stillroom.server.logbook import log_settings
from stillroom.server.run_cli import recorded_error
from stillroom.server.store.folder import result_of
from stillroom.server.store.journal import read_events
from stillroom.server.store.runs import RUNNING, Runs

RUN = "rehearsal"
"""Name of the run at the server."""

RUN_CHECK_S = 2.0
"""How often the server's table of runs is looked up."""

REGISTER_S = 20.0
"""Between an enrolment in the registry and Flower's knowing of it; half a second is usual."""

Watch = Callable[[dict[str, Any]], None]
"""Told every event of the run as it happens."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to rehearse.

    Attributes:
        out: Output folder; absent or empty.
        study: The study file, not yet prepared.
        sites: Training sites; one more is held out.
        seed: Of the phantoms.
        data: Site -> folders of real scans that join it as unlabelled ones.
        in_process: One process, no port.
        edge_port: Of the edge; a free one when None.
        labelled, unlabelled, held_out: Phantom patients per site.
    """

    out: Path
    study: Study
    sites: int = 3
    seed: int = 0
    data: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    in_process: bool = False
    edge_port: int | None = None
    labelled: int = 10
    unlabelled: int = 12
    held_out: int = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rehearsal ended.

    Attributes:
        result: The run's ``result.json``.
        edge: The edge's record: sites with certificate, TLS version and bytes; None in process.
        hospitals: The sites.
    """

    result: dict[str, Any]
    edge: dict[str, Any] | None
    hospitals: tuple[Hospital, ...]


def rehearse(plan: Plan, watch: Watch, *, progress: Callable[[int, int], None]) -> Outcome:
    """Run the plan from empty folder to result; whatever was started is stopped again.

    Args:
        plan: What to rehearse.
        watch: Told every event.
        progress: Told (patients made, patients in all) while phantoms are made.

    Raises:
        StillroomError: As the study ended, or because a process or port was not to be had.
    """
    layout = Layout(plan.out)
    if plan.out.exists() and any(plan.out.iterdir()):
        raise ConfigError(
            f"{plan.out} already holds something.",
            fix="Name a new or empty folder.",
            code="STR-107",
        )
    # The study first: what is wrong with it is told before minutes go into patients.
    study = with_held_out(plan.study, [site_specs(plan)[-1].name])
    prepare_study(study, layout.study)
    hospitals = make_hospitals(plan, layout, progress)
    names = [hospital.name for hospital in hospitals]
    found_consortium(layout, names)
    if plan.in_process:
        _write_sites(plan, layout, hospitals, server_port=9, threads=os.cpu_count() or 1)
        agree(layout, names)
        tell_server(layout, names)
        edge = None
        _run_in_process(layout, hospitals, watch)
    else:
        edge = _run_processes(plan, layout, hospitals, watch)
    result = json.loads((layout.run / "result.json").read_text("utf-8"))
    return Outcome(result, edge, hospitals)


def with_held_out(study: Study, held_out: list[str]) -> Study:
    """The study with its held-out sites named."""
    section = study.study.model_copy(update={"held_out": tuple(held_out)})
    return study.model_copy(update={"study": section})


def _run_processes(
    plan: Plan, layout: Layout, hospitals: tuple[Hospital, ...], watch: Watch
) -> dict[str, Any]:
    """Server, SuperExec, and a courier and a runner per hospital, until the run has ended."""
    names = [hospital.name for hospital in hospitals]
    inner, edge = free_ports(2)
    edge = plan.edge_port or edge
    server_toml = write_server_config(layout, edge_port=edge, inner_port=inner)
    _write_sites(plan, layout, hospitals, server_port=edge, threads=1)
    agree(layout, names)
    processes = Processes(layout.logs)
    env = {"FLWR_HOME": str(layout.server / "flower-home"), "OMP_NUM_THREADS": "1"}
    server, client = "stillroom.server.cli", "stillroom.client.cli"
    try:
        processes.start("server", server, ["serve", "--config", str(server_toml)], env=env)
        # Imports of torch and MONAI take a core for seconds; runners begin theirs at once.
        for name in names:
            config = ["--config", str(layout.site_config(name))]
            processes.start(f"{name}-runner", client, ["runner", *config], env=env)
        processes.wait_for_port("server", inner)
        processes.wait_for_port("server", edge)
        run_ended = _start_run(layout, server_toml, names)
        processes.start("superexec", server, ["execute", "--config", str(server_toml)], env=env)
        for name in names:
            config = ["--config", str(layout.site_config(name))]
            processes.start(f"{name}-courier", client, ["courier", *config], env=env)

        def check() -> None:
            processes.check()
            run_ended()

        _follow(layout, watch, check)
    finally:
        processes.stop()
    record: dict[str, Any] = json.loads(
        (layout.server / "state" / "edge" / "edge.json").read_text("utf-8")
    )
    return record


def _start_run(layout: Layout, server_toml: Path, names: list[str]) -> Callable[[], None]:
    """Wait until Flower knows every enrolled site's key, then want the run that waits for them.

    The server's keeper starts it, and starts it again when its process dies, as in the field.

    Returns:
        A check that refuses to go on once the keeper has given the run up.
    """
    from stillroom.server.operator import Operator  # noqa: PLC0415  # pulls in all of Flower

    config = ServerConfig.load(server_toml)
    with contextlib.closing(Operator(config)) as operator:
        deadline = time.monotonic() + REGISTER_S
        while not set(names) <= operator.nodes().keys():
            if time.monotonic() > deadline:
                raise ResourceError(
                    "The server did not let every enrolled site in.",
                    fix=f"Read {layout.logs / 'server.log'}.",
                    code="STR-502",
                )
            time.sleep(0.05)
    with Runs(config.runs) as runs:
        runs.add(RUN, layout.study, layout.run, time.time())
    looked = time.monotonic()

    def check() -> None:
        nonlocal looked
        if time.monotonic() - looked < RUN_CHECK_S:
            return
        looked = time.monotonic()
        with Runs(config.runs) as runs:
            run = runs.get(RUN)
        if run.wanted != RUNNING and result_of(layout.run) is None:
            raise ResourceError(
                f"The study was given up: {run.reason}" if run.reason else "The run was stopped.",
                fix=f"Read {layout.logs / 'superexec.log'}; rehearse again into a new folder.",
                code="STR-502" if run.reason else "STR-508",
            )

    return check


def _follow(layout: Layout, watch: Watch, check: Callable[[], None]) -> None:
    """Tell ``watch`` every event until the run has ended; ``check`` may end it early."""
    offset = 0
    pause = threading.Event()
    while True:
        # Looked up before the events: a result without its event is one whose writer was killed.
        result = result_of(layout.run)
        for behind, event in read_events(layout.run, offset=offset):
            offset = behind
            watch(event)
            if event["event"] == "study.finished":
                if event["error"]:
                    raise recorded_error(event["error"])
                return
        if result is not None:
            if result["error"]:
                raise recorded_error(result["error"])
            return
        check()
        pause.wait(0.1)


def _run_in_process(layout: Layout, hospitals: tuple[Hospital, ...], watch: Watch) -> None:
    from stillroom.deploy.local_grid import run_in_process  # noqa: PLC0415  # Flower and torch

    stop, failures = threading.Event(), list[BaseException]()
    sites = {hospital.name: layout.site_config(hospital.name) for hospital in hospitals}
    registry = layout.server / "registry.db"
    config = ServerConfig.load(layout.server / "server.toml")
    log = {key: str(value) for key, value in log_settings(config).items()}

    def work() -> None:
        try:
            run_in_process(layout.study, layout.run, sites, registry=registry, log=log, stop=stop)
        except BaseException as error:  # noqa: BLE001  # carried to the thread that waits
            failures.append(error)

    thread = threading.Thread(target=work, name="study")
    thread.start()

    def check() -> None:
        if not thread.is_alive() and not (layout.run / "result.json").exists():
            raise ResourceError(
                "The study stopped without a result.",
                fix="Look at the error above.",
                code="STR-505",
            ) from (failures[0] if failures else None)

    try:
        _follow(layout, watch, check)
    finally:
        stop.set()
        thread.join()


def _write_sites(
    plan: Plan,
    layout: Layout,
    hospitals: tuple[Hospital, ...],
    *,
    server_port: int,
    threads: int,
) -> None:
    for hospital in hospitals:
        layout.site(hospital.name).mkdir(parents=True, exist_ok=True)
        write_site_config(
            layout,
            hospital.name,
            server_port=server_port,
            data=hospital.data,
            labels=hospital.labels,
            threads=threads,
            seed=plan.seed,
        )
