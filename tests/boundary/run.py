"""``python -P tests/boundary/run.py``: the smuggling matrix as a table, and its one closing line."""

import importlib.util
import sys
import tempfile
from pathlib import Path

import typer
from flwr.supercore.task_identity import TaskIdentity


def _cases() -> None:
    """Load the modules beside this file, as the tests do."""
    spec = importlib.util.spec_from_file_location(
        "boundary_conftest", Path(__file__).with_name("conftest.py")
    )
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def main() -> int:
    """Print the table; 1 when a single case got through."""
    _cases()
    import attempts
    import smuggling

    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)
    refused = 0
    typer.echo("| attempt | gate | server | payload bytes on the wire | ledger |")
    typer.echo("| --- | --- | --- | --- | --- |")
    for case in smuggling.CASES:
        with tempfile.TemporaryDirectory() as folder:
            result = attempts.attempt(case, Path(folder))
        line = result.lines[-1]
        good = (
            result.payload == 0
            and line.decision == "refused"
            and line.code in case.codes
            and not any(entry.kind == "sent" for entry in result.lines)
            and (not case.server or result.server in case.server)
        )
        refused += good
        told = result.code or ("nothing sent" if not result.wire.pushed else "LEFT")
        typer.echo(
            f"| {case.name} | {told} | {result.server or 'never reaches it'} | {result.payload} "
            f"| {line.kind}, {line.code} |" + ("" if good else " **not refused as it should be**")
        )
    typer.echo(f"smuggling {refused}/{len(smuggling.CASES)} refused")
    return int(refused < len(smuggling.CASES))


if __name__ == "__main__":
    sys.exit(main())
