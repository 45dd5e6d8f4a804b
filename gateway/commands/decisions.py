"""The verbs `qcs-gateway decisions …`: parse and print, nothing else."""

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.call import Reason
from gateway.commands.answers import caller_text, printable, why_lines
from gateway.commands.options import (
    Time,
    config_option,
    data_option,
    file_type,
    json_option,
    run_or_explain,
    settings_from,
)
from gateway.policy.record import Outcome

if TYPE_CHECKING:  # slow to import, and other verbs start without them
    from gateway.cam.decisions.chain import Report
    from gateway.cam.decisions.queries import Filter

Verb = TypeVar("Verb", bound=Callable[..., Any])

_HEAD = re.compile(r"([^:]{1,32}):([0-9]{1,18}):([0-9a-f]{64})")


class Head(click.ParamType[tuple[str, int, str]]):
    """`CHAIN:SEQ:HASH`, as an export prints it."""

    name = "head"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int, str]:
        """Read one."""
        found = _HEAD.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not CHAIN:SEQ:HASH.", param, ctx)
        return found[1], int(found[2]), found[3]


def filter_options(verb: Verb) -> Verb:
    """The options that choose decisions."""
    for option in (
        click.option("--until", type=Time(), help="Only before this time."),
        click.option("--since", type=Time(), help="Only from this time on; 15m: that long ago."),
        click.option("--reason", type=click.Choice([reason.value for reason in Reason])),
        click.option("--effect", type=click.Choice([one.value for one in Outcome])),
        click.option("--action", help="As policies write it: batch:SubmitJob, batch:Describe*."),
        click.option("--user", help="A user's name or uin."),
    ):
        verb = option(verb)
    return verb


@click.group()
def decisions() -> None:
    """What was decided, and why."""


@decisions.command("show")
@click.argument("request_id")
@config_option
@data_option
@json_option
def show(request_id: str, as_json: bool, **options: Any) -> None:
    """Show one decision by the RequestId of its call."""
    from gateway.administration import find_decision  # noqa: PLC0415

    settings = settings_from(**options)
    found = run_or_explain(lambda: find_decision(settings, request_id))
    if found is None:
        click.echo(f"No decision with the RequestId {request_id} is recorded.", err=True)
        sys.exit(1)
    click.echo(json.dumps(found) if as_json else decision_text(found))


@decisions.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@config_option
@data_option
@json_option
def list_(limit: int, as_json: bool, config: Path | None, data: Path | None, **chosen: Any) -> None:
    """List the last decisions, the newest first."""
    from gateway.administration import list_decisions  # noqa: PLC0415

    settings = settings_from(config=config, data=data)
    wanted = _filter(**chosen)
    for record in run_or_explain(lambda: list_decisions(settings, wanted, limit=limit)):
        _print(record, as_json=as_json)


@decisions.command("tail")
@filter_options
@click.option("--last", type=click.IntRange(0, 100_000), default=10, show_default=True)
@config_option
@data_option
@json_option
def tail(last: int, as_json: bool, config: Path | None, data: Path | None, **chosen: Any) -> None:
    """Show the last decisions, then each new one, until interrupted."""
    from gateway.administration import follow_decisions  # noqa: PLC0415

    settings = settings_from(config=config, data=data)
    wanted = _filter(**chosen)
    run_or_explain(
        lambda: follow_decisions(
            settings, wanted, last=last, show=lambda record: _print(record, as_json=as_json)
        )
    )


@decisions.command("export")
@config_option
@data_option
def export(**options: Any) -> None:
    """Write all decisions as lines of JSON, and to stderr the heads to keep elsewhere."""
    from gateway.administration import export_decisions  # noqa: PLC0415

    settings = settings_from(**options)
    chains = run_or_explain(
        lambda: export_decisions(settings, show=lambda line: click.echo(line, nl=True))
    )
    for chain in chains:
        click.echo(f"{chain.id}:{chain.head.seq}:{chain.head.hash}", err=True)


@decisions.command("verify")
@click.option("--head", "heads", type=Head(), multiple=True, help="A head that was kept.")
@click.option("--file", type=file_type, help="An export.")
@config_option
@data_option
@json_option
def verify(
    heads: tuple[tuple[str, int, str], ...], file: Path | None, as_json: bool, **options: Any
) -> None:
    """Look for decisions that were changed, removed or added: a line for each chain.

    What retention has removed from the beginning of a chain cannot be told from what somebody
    else has: the line says from which record on it goes. A kept head before that is UNKNOWN.
    """
    from gateway.administration import verify_decisions, verify_exported  # noqa: PLC0415

    kept: dict[str, dict[int, str]] = {}
    for chain, seq, digest in heads:
        kept.setdefault(chain, {})[seq] = digest
    settings = settings_from(**options)
    reports = run_or_explain(
        lambda: verify_exported(file, kept=kept) if file else verify_decisions(settings, kept=kept)
    )
    for report in reports:
        click.echo(json.dumps(_report_members(report)) if as_json else _report_text(report))
    if not reports:
        click.echo("There is no chain to verify.", err=True)
    if not reports or not all(report.sound for report in reports):
        sys.exit(1)


def _filter(
    *,
    user: str | None,
    action: str | None,
    effect: str | None,
    reason: str | None,
    since: datetime | None,
    until: datetime | None,
) -> "Filter":
    from gateway.cam.decisions.queries import Filter  # noqa: PLC0415

    return Filter(
        user=user or "",
        action=action or "",
        effect=Outcome(effect) if effect else None,
        reason=Reason(reason) if reason else None,
        since=since,
        until=until,
    )


def _print(record: bytes, *, as_json: bool) -> None:
    found = json.loads(record)
    click.echo(json.dumps(found) if as_json else decision_line(found))


def decision_line(found: dict[str, Any]) -> str:
    """One decision in one line."""
    resources = found["Resources"] or ["-"]
    more = f" and {len(resources) - 1} more" if len(resources) > 1 else ""
    return printable(
        f"{found['Time']}  {found['Effect']:7}  {found['Reason']:14}  {found['Action']}"
        f"  {caller_text(found['Principal'])}  {resources[0]}{more}  {found['RequestId']}"
    )


def decision_text(found: dict[str, Any]) -> str:
    """All of one decision, for people."""
    lines = [
        f"{found['Effect']}  {found['Reason']}  {found['Action']}",
        printable(
            f"  by        {caller_text(found['Principal'])}"
            f" from {found['SourceIp']} at {found['Time']}"
        ),
        *(printable(f"  on        {resource}") for resource in found["Resources"]),
        *(printable(f"  besides   {resource}") for resource in found.get("DenyOnly", ())),
        *why_lines(found),
        f"  policies  generation {found['Generation']}",
    ]
    return "\n".join(lines)


def _report_text(report: "Report") -> str:
    verdict = "sound  " if report.sound else "DAMAGED" if report.damaged else "UNKNOWN"
    head = f"{report.chain}:{report.head.seq}:{report.head.hash}"
    first = f" from {report.first_seq} on" if report.records else ""
    lines = [f"{verdict}  {report.records} records{first}  {head}"]
    lines += [
        f"  {one.seq}  {one.fault.value}  {one.request_id}".rstrip() for one in report.findings
    ]
    if report.findings_untold:
        lines.append(f"  and {report.findings_untold} findings more")
    return "\n".join(lines)


def _report_members(report: "Report") -> dict[str, Any]:
    return {
        "Chain": report.chain,
        "Sound": report.sound,
        "Records": report.records,
        "FirstSeq": report.first_seq,
        "HeadSeq": report.head.seq,
        "HeadHash": report.head.hash,
        "Findings": [
            {"Seq": one.seq, "Fault": one.fault.value, "RequestId": one.request_id}
            for one in report.findings
        ],
        "FindingsUntold": report.findings_untold,
    }
