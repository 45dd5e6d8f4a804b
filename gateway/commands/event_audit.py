"""`qcs-gateway events audit`: whether the ledger says what the states are, and all was told."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.commands.answers import printable
from gateway.commands.event_answers import counted
from gateway.commands.options import (
    config_option,
    data_option,
    json_option,
    run_or_explain,
    settings_from,
)
from gateway.config import Settings

if TYPE_CHECKING:  # slow to import, and other verbs start without them
    from gateway.batch.auditing.auditor import AuditResult


@click.command("audit")
@click.option("--job", "stream_id", help="Only this job, or this environment.")
@config_option
@data_option
@json_option
def audit(stream_id: str | None, as_json: bool, config: Path | None, data: Path | None) -> None:
    """Hold the events against the states, and messages and deliveries against the events.

    Reads, changes nothing, and may run beside the server. Ends with 1 if anything disagrees.
    """
    settings = settings_from(config=config, data=data)
    result = run_or_explain(lambda: _audit(settings, stream_id))
    if as_json:
        click.echo(json.dumps(_members(result)))
    else:
        for each in result.found.first:
            click.echo(printable(f"{each.stream_id or '-'}  {each.flaw.value}  {each.what}"))
    click.echo(
        f"{counted(result.streams, 'stream')}, {counted(result.events, 'event')},"
        f" {counted(result.messages, 'message')} compared:"
        f" {counted(result.found.count, 'discrepancy', 'discrepancies')}",
        err=as_json,
    )
    if left := result.found.count - len(result.found.first):
        click.echo(f"{counted(left, 'more is', 'more are')} not shown.", err=True)
    if result.found.count:
        sys.exit(1)


def _audit(settings: Settings, stream_id: str | None) -> "AuditResult":
    from gateway.administration import with_store  # noqa: PLC0415
    from gateway.batch.auditing.auditor import (  # noqa: PLC0415
        audit_everything,
        audit_named,
    )
    from gateway.cmq import completeness  # noqa: PLC0415

    if stream_id is None:
        return with_store(settings, lambda store: audit_everything(store, deliveries=completeness))
    return with_store(
        settings, lambda store: audit_named(store, stream_id, deliveries=completeness)
    )


def _members(result: "AuditResult") -> dict[str, Any]:
    return {
        "Streams": result.streams,
        "Events": result.events,
        "Messages": result.messages,
        "DiscrepancyCount": result.found.count,
        "Discrepancies": [
            {"StreamId": each.stream_id, "Flaw": each.flaw.value, "What": each.what}
            for each in result.found.first
        ],
    }
