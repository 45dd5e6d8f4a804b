"""`doctor`: tells what this machine allows, what it does not, and what to do about it."""

import json
import sys
from typing import Any

import click

from gateway.commands.options import config_option, data_option, json_option, settings_from


@click.command()
@config_option
@data_option
@json_option
def doctor(as_json: bool, **options: Any) -> None:
    """Try what the gateway needs here; exit code 1 if it could not serve as it is set."""
    settings = settings_from(**options)
    from gateway.commands.diagnosis import diagnose  # noqa: PLC0415
    from gateway.commands.findings import Verdict, worst_of  # noqa: PLC0415

    findings = diagnose(settings)
    verdict = worst_of(findings)
    if as_json:
        checks = [
            {
                "Name": each.name,
                "Verdict": each.verdict.value,
                "Found": each.words,
                "Advice": each.advice,
            }
            for each in findings
        ]
        click.echo(json.dumps({"Verdict": verdict.value, "Checks": checks}))
    else:
        for each in findings:
            click.echo(f"{each.verdict.value:<9} {each.name:<18} {each.words}")
            if each.advice:
                click.echo(f"{'':<9} {'':<18} {each.advice}")
    sys.exit(1 if verdict is Verdict.WRONG else 0)
