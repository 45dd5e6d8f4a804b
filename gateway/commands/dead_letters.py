"""The verbs `qcs-gateway events dead-letters …`: parse and print, nothing else."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gateway.commands.event_answers import counted, dead_letter_line, dead_letter_text
from gateway.commands.options import (
    config_option,
    data_option,
    json_option,
    misuse,
    run_or_explain,
    settings_from,
    topic_key,
)

LetterId = click.IntRange(1, 2**63 - 1)
topic_option = click.option("--topic", help="Only of this topic, by its name.")
owner_option = click.option("--owner", help="The topic's account, if not the default one.")
region_option = click.option("--region", help="The topic's region, if not the default one.")
subscription_option = click.option("--subscription", help="Only of the subscription of this name.")


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that a subscriber was not given in the end; they are kept, and whole."""


@dead_letters.command("list")
@topic_option
@subscription_option
@owner_option
@region_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@config_option
@data_option
@json_option
def list_(
    topic: str | None,
    subscription: str | None,
    owner: str | None,
    region: str | None,
    limit: int,
    as_json: bool,
    **options: Any,
) -> None:
    """List the last dead letters, the newest first."""
    from gateway.cmq.push.dead_letters import Graveyard  # noqa: PLC0415
    from gateway.commands.dead_letter_work import list_dead_letters  # noqa: PLC0415

    if not topic and (owner or region):
        misuse("--owner and --region say whose --topic is meant")
    settings = settings_from(**options)
    wanted = Graveyard(
        topic_key=topic_key(settings, topic, owner_uin=owner, region=region) if topic else "",
        subscription_name=subscription or "",
    )
    found = run_or_explain(lambda: list_dead_letters(settings, wanted, limit=limit))
    for letter in found:
        click.echo(json.dumps(letter) if as_json else dead_letter_line(letter))
    if not found and (topic or subscription):
        click.echo("No dead letter fits what was asked for.", err=True)


@dead_letters.command("show")
@click.argument("letter_id", type=LetterId)
@config_option
@data_option
@json_option
def show(letter_id: int, as_json: bool, **options: Any) -> None:
    """Show one dead letter, with the body of its message."""
    from gateway.commands.dead_letter_work import find_dead_letter  # noqa: PLC0415

    settings = settings_from(**options)
    found = run_or_explain(lambda: find_dead_letter(settings, letter_id))
    if found is None:
        click.echo(f"There is no dead letter {letter_id}.", err=True)
        sys.exit(1)
    click.echo(json.dumps(found) if as_json else dead_letter_text(found))


@dead_letters.command("replay")
@click.argument("letter_ids", type=LetterId, nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that were never replayed.")
@topic_option
@subscription_option
@owner_option
@region_option
@config_option
@data_option
@json_option
def replay(
    *,
    letter_ids: tuple[int, ...],
    all_: bool,
    topic: str | None,
    subscription: str | None,
    owner: str | None,
    region: str | None,
    as_json: bool,
    config: Path | None,
    data: Path | None,
) -> None:
    """Tell dead letters again, by their ids, or all of a subscription that never were.

    Each goes to its subscription alone, or to the one that has its name in the topic by now.
    """
    from gateway.cmq.push.dead_letters import Graveyard  # noqa: PLC0415
    from gateway.commands.dead_letter_work import (  # noqa: PLC0415
        replay_dead_letters,
        replay_graveyard,
    )

    settings = settings_from(config=config, data=data)
    if letter_ids and not (all_ or topic or subscription or owner or region):
        ids = tuple(dict.fromkeys(letter_ids))
        failures = run_or_explain(lambda: replay_dead_letters(settings, ids))
        _report(len(ids) - len(failures), failures, as_json=as_json)
    elif all_ and topic and subscription and not letter_ids:
        wanted = Graveyard(
            topic_key=topic_key(settings, topic, owner_uin=owner, region=region),
            subscription_name=subscription,
            not_yet_replayed=True,
        )
        told, failures = run_or_explain(lambda: replay_graveyard(settings, wanted))
        _report(told, failures, as_json=as_json)
    else:
        misuse("say the ids of dead letters, or --topic, --subscription and --all")


def _report(told: int, failures: Mapping[int, str], *, as_json: bool) -> None:
    """Print how many are told again; what could not be, or nothing at all, is a no."""
    if as_json:
        failed = [{"Id": letter_id, "Why": why} for letter_id, why in failures.items()]
        click.echo(json.dumps({"Told": told, "Failed": failed}))
    else:
        click.echo(f"{counted(told, 'dead letter is', 'dead letters are')} told again.")
        for letter_id, why in failures.items():
            click.echo(f"{letter_id}: {why}", err=True)
    if failures or not told:
        sys.exit(1)
