"""`policy lint` and `policy test`: policies checked before they are merged."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from gateway.commands.options import (
    config_option,
    json_option,
    misuse,
    policies_option,
    run_or_explain,
    settings_from,
)

SEVERITIES = ("error", "warning", "note")


@click.command()
@policies_option
@config_option
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES),
    default="note",
    help="The least severity to report.",
)
@click.option("--rules", "shows_rules", is_flag=True, help="Print the table of rules.")
@json_option
def lint(severity: str, shows_rules: bool, as_json: bool, **options: Any) -> None:
    """Look for mistakes in policies. Errors and warnings that are reported make the answer no."""
    from gateway.commands import lint_report  # noqa: PLC0415  # other verbs start without it

    if shows_rules:
        rules = lint_report.public_rules()
        click.echo(_as_json(rules) if as_json else lint_report.rules_text())
        return
    settings = settings_from(**options)
    texts = run_or_explain(lambda: lint_report.read_texts(settings.policies), exit_code=2)
    found = lint_report.find(texts, settings, severity=severity)
    if as_json:
        click.echo(_as_json([lint_report.public(one) for one in found]))
    else:
        for one in found:
            click.echo(lint_report.text(one))
        click.echo(lint_report.summary(found, files=len(texts)), err=True)
    if lint_report.is_no(found):
        sys.exit(1)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@policies_option
@config_option
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    default=0.0,
    help="Percent of all statements that must settle a case.",
)
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML to this file.")
@json_option
def test(
    files: tuple[Path, ...],
    fail_under: float,
    junit: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Decide the cases of FILES, or of tests/*.toml among the policies, and compare."""
    from gateway.commands import case_report  # noqa: PLC0415  # other verbs start without it
    from gateway.commands.junit import junit_xml  # noqa: PLC0415

    settings = settings_from(**options)
    report = run_or_explain(lambda: case_report.run(files, settings), exit_code=2)
    if not report.has_cases:
        misuse(f"there are no cases in {', '.join(map(str, files)) or settings.policies / 'tests'}")
    if junit is not None:
        xml = junit_xml(report.outcomes)
        run_or_explain(lambda: junit.write_bytes(xml), exit_code=2)
    click.echo(_as_json(case_report.public(report)) if as_json else case_report.text(report))
    if report.has_failures or report.coverage.percent < fail_under:
        sys.exit(1)


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
