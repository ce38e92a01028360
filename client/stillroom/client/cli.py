"""``stillroom-client``: the commands hospital IT runs. Thin: parse, call, print."""

from stillroom.client import service_cli, site_cli
from stillroom.client.consent_cli import consent
from stillroom.client.data_cli import data
from stillroom.client.doctor_cli import doctor
from stillroom.client.enrolment_cli import enrol
from stillroom.client.ledger_cli import ledger
from stillroom.client.page_cli import page
from stillroom.client.predict_cli import predict
from stillroom.client.setup_cli import init
from stillroom.client.synthesis_cli import synthesise
from stillroom.common.console import command_group, run_cli

app = command_group(__doc__)
app.add_typer(consent, name="consent")
app.add_typer(data, name="data")
app.add_typer(ledger, name="ledger")
app.command()(service_cli.courier)
app.command()(service_cli.runner)
app.command()(service_cli.health)
app.command()(doctor)
app.command()(init)
for command in (
    site_cli.status,
    site_cli.pause,
    site_cli.resume,
    site_cli.logs,
    site_cli.leave,
):
    app.command()(command)
app.command()(predict)
app.command()(synthesise)
app.command()(enrol)
app.command()(page)


def main() -> None:
    """Entry point: an expected failure prints its code and fix, and sets the exit status."""
    run_cli(app)


if __name__ == "__main__":
    main()
