"""The verbs `qcs-gateway events …`: parse and print, nothing else."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gateway.commands.dead_letters import dead_letters
from gateway.commands.event_answers import counted, event_line, event_text
from gateway.commands.event_audit import audit
from gateway.commands.options import (
    Time,
    config_option,
    data_option,
    json_option,
    misuse,
    run_or_explain,
    settings_from,
    topic_key,
)
from gateway.events.names import ALIASES, EventName, Subject

if TYPE_CHECKING:  # slow to import, and other verbs start without them
    from gateway.events.ledger import Wanted
    from gateway.events.replay import Replayed

Verb = TypeVar("Verb", bound=Callable[..., Any])


class Name(click.ParamType[str]):
    """The name of an event, `JOB_FAILED` or `JobFailed`."""

    name = "event name"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Read one, in the ledger's spelling."""
        found = EventName.__members__.get(value) or ALIASES.get(value)
        if found is None:
            self.fail(
                f"{value!r} is no event; they are {', '.join(EventName.__members__)}.", param, ctx
            )
        return found.value


job_option = click.option("--job", "jobs", multiple=True, help="Only of this job.")
env_option = click.option("--env", "envs", multiple=True, help="Only of this environment.")
name_option = click.option("--name", "names", type=Name(), multiple=True, help="JOB_FAILED, …")
since_option = click.option(
    "--since", type=Time(), help="Only from this time on; 15m: that long ago."
)
until_option = click.option("--until", type=Time(), help="Only before this time.")
owner_option = click.option("--owner", help="The account's uin.")
region_option = click.option("--region", help="As ap-guangzhou.")


def filter_options(verb: Verb) -> Verb:
    """The options that choose events."""
    kinds = click.Choice([kind.value for kind in Subject])
    for option in (
        region_option,
        owner_option,
        until_option,
        since_option,
        click.option("--kind", type=kinds, help="What they are about."),
        name_option,
        env_option,
        job_option,
    ):
        verb = option(verb)
    return verb


@click.group()
def events() -> None:
    """What happened, and who was told."""


events.add_command(audit)
events.add_command(dead_letters)


@events.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@config_option
@data_option
@json_option
def list_(limit: int, as_json: bool, config: Path | None, data: Path | None, **chosen: Any) -> None:
    """List the last events, the newest first."""
    from gateway.commands.event_work import list_events  # noqa: PLC0415

    settings = settings_from(config=config, data=data)
    wanted = _wanted(**chosen)
    found = run_or_explain(lambda: list_events(settings, wanted, limit=limit))
    for record in found.records:
        _print(record, as_json=as_json)
    for stream_id in found.unknown:
        click.echo(f"There is no event of {stream_id!a}.", err=True)
    if not found.records and not found.unknown:
        click.echo("No event fits what was asked for.", err=True)


@events.command("tail")
@filter_options
@click.option("--last", type=click.IntRange(0, 100_000), default=10, show_default=True)
@config_option
@data_option
@json_option
def tail(last: int, as_json: bool, config: Path | None, data: Path | None, **chosen: Any) -> None:
    """Show the last events, then each new one, until interrupted."""
    from gateway.commands.event_work import follow_events  # noqa: PLC0415

    settings = settings_from(config=config, data=data)
    wanted = _wanted(**chosen)
    run_or_explain(
        lambda: follow_events(
            settings, wanted, last=last, show=lambda record: _print(record, as_json=as_json)
        )
    )


@events.command("show")
@click.argument("event_or_message_id")
@config_option
@data_option
@json_option
def show(event_or_message_id: str, as_json: bool, **options: Any) -> None:
    """Show one event, its messages, and what became of each.

    For queue and HTTP subscribers that is said one by one, for those on the broker together: when
    the broker had the message. By the id of a message, which its subscribers see, the event is
    shown with that message alone.
    """
    from gateway.commands.event_work import describe_event  # noqa: PLC0415

    settings = settings_from(**options)
    found = run_or_explain(lambda: describe_event(settings, event_or_message_id))
    if found is None:
        click.echo(f"There is no event or message {event_or_message_id!a}.", err=True)
        sys.exit(1)
    click.echo(json.dumps(found) if as_json else event_text(found))


@events.command("replay")
@click.argument("event_or_message_id", required=False)
@click.option("--topic", help="All messages of this topic, or those that the options choose.")
@click.option("--subscription", help="Tell only this subscription of the topic.")
@name_option
@env_option
@job_option
@since_option
@until_option
@owner_option
@region_option
@click.option("--dry-run", is_flag=True, help="Only count.")
@config_option
@data_option
@json_option
def replay(
    *,
    event_or_message_id: str | None,
    topic: str | None,
    subscription: str | None,
    names: Sequence[str],
    envs: Sequence[str],
    jobs: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    owner: str | None,
    region: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell messages again, with the same ids and bytes: those of one event, one, or of a topic.

    The account and region of the topic are those of the settings unless others are given.
    """
    from gateway.commands.event_work import replay_events, why_nothing  # noqa: PLC0415
    from gateway.events.replay import Chosen  # noqa: PLC0415

    if not event_or_message_id and not topic:
        misuse("say the id of an event or of a message, or a --topic")
    if subscription is not None and not topic:
        misuse("--subscription needs its --topic")
    _check_times(since, until)
    settings = settings_from(**options)
    chosen = Chosen(
        id=event_or_message_id or "",
        topic_key=topic_key(settings, topic, owner_uin=owner, region=region) if topic else "",
        stream_ids=frozenset((*jobs, *envs)),
        names=frozenset(names),
        since=since,
        until=until,
    )
    done = run_or_explain(
        lambda: replay_events(settings, chosen, subscription=subscription, dry_run=dry_run)
    )
    _report(done, as_json=as_json, dry_run=dry_run)
    if not (done.told or done.unwanted or done.gone):
        click.echo(run_or_explain(lambda: why_nothing(settings, chosen)), err=True)
    if not done.told:
        sys.exit(1)


def _report(done: "Replayed", *, as_json: bool, dry_run: bool) -> None:
    """Print what was told again, and what was not."""
    if as_json:
        members = {"Told": done.told, "Unwanted": done.unwanted, "Gone": done.gone}
        click.echo(json.dumps({**members, "DryRun": dry_run}))
    else:
        are = "would be" if dry_run else "is" if done.told == 1 else "are"
        click.echo(f"{counted(done.told, 'message')} {are} told again.")
    if done.unwanted:
        more = counted(done.unwanted, "more is", "more are")
        click.echo(f"{more} not for this subscription.", err=True)
    if done.gone:
        one, many = "more belongs to a topic that is gone", "more belong to topics that are gone"
        click.echo(f"{counted(done.gone, one, many)}.", err=True)


def _check_times(since: datetime | None, until: datetime | None) -> None:
    """Between them there must be something, or nothing could ever fit."""
    if since is not None and until is not None and since > until:
        misuse("--since is after --until")


def _wanted(
    *,
    jobs: Sequence[str],
    envs: Sequence[str],
    names: Sequence[str],
    kind: str | None,
    since: datetime | None,
    until: datetime | None,
    owner: str | None,
    region: str | None,
) -> "Wanted":
    from gateway.events.ledger import Wanted  # noqa: PLC0415

    _check_times(since, until)
    return Wanted(
        owner_uin=owner or "",
        region=region or "",
        names=frozenset(names),
        kind=Subject(kind) if kind else None,
        stream_ids=frozenset((*jobs, *envs)),
        since=since,
        until=until,
    )


def _print(record: bytes, *, as_json: bool) -> None:
    click.echo(record if as_json else event_line(json.loads(record)))
