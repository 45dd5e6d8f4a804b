"""`policy diff` and `policy suggest`: what policies mean for the calls that were really made.

A 1 is an answer of theirs, so whatever goes wrong ends with 2.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.clock import wire_time
from gateway.commands.options import (
    Time,
    config_option,
    data_option,
    file_type,
    folder_type,
    json_option,
    misuse,
    owner_option,
    policies_option,
    run_or_explain,
    settings_from,
)
from gateway.config import Settings

if TYPE_CHECKING:  # slow to import, and other verbs start without them
    from gateway.call import Principal
    from gateway.policy.question import RecordedCall

since_option = click.option(
    "--since", type=Time(), help="Calls of the decision log from this time on; 7d: that long ago."
)
corpus_option = click.option("--corpus", type=file_type, help="Or of an export of it.")


@click.command()
@click.argument("old", type=folder_type)
@click.argument("new", type=folder_type)
@corpus_option
@since_option
@click.option("--fail-on-new-allow", is_flag=True, help="Exit with 1 if something is opened.")
@click.option("--fail-on-new-deny", is_flag=True, help="Exit with 1 if something is closed.")
@config_option
@data_option
@json_option
def diff(
    old: Path,
    new: Path,
    *,
    corpus: Path | None,
    since: datetime | None,
    fail_on_new_allow: bool,
    fail_on_new_deny: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Decide recorded calls under two folders of policies, and count what differs."""
    from gateway.commands import answers, loading  # noqa: PLC0415
    from gateway.policy.comparison import Comparison  # noqa: PLC0415

    settings = settings_from(**options)
    before, after = (
        loading.decision_point(one, loading.read_snapshot(one))
        for one in (replace(settings, policies=old), replace(settings, policies=new))
    )
    comparison = Comparison(before, after)
    _each_call(comparison.add, settings, corpus=corpus, since=since)
    if not comparison.calls and (fail_on_new_allow or fail_on_new_deny):
        misuse("there is no recorded call to compare the policies by")
    if as_json:
        members = answers.comparison_members(comparison)
        click.echo(json.dumps(members, ensure_ascii=False))
    elif comparison.differences:
        click.echo(answers.comparison_text(comparison))
    click.echo(
        f"{comparison.calls} recorded calls, {comparison.partial} of them recorded in part,"
        f" {comparison.otherwise_recorded} answered then otherwise than by {old}.",
        err=True,
    )
    failed = (fail_on_new_allow and comparison.opens) or (fail_on_new_deny and comparison.closes)
    sys.exit(1 if failed else 0)


@click.command()
@click.option("--user", help="A user by name.")
@click.option("--role", help="Or a role.")
@owner_option
@corpus_option
@since_option
@click.option("--include-denied", is_flag=True, help="Allow what was denied, too.")
@click.option("--keep-ids", is_flag=True, help="Never put type/* in the place of ids.")
@click.option("--ids", "ids_max", type=click.IntRange(0), default=5, show_default=True)
@policies_option
@config_option
@data_option
@json_option
def suggest(
    user: str | None,
    role: str | None,
    owner_uin: str | None,
    *,
    corpus: Path | None,
    since: datetime | None,
    include_denied: bool,
    keep_ids: bool,
    ids_max: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the least that allows the calls somebody made.

    More distinct ids of one type than --ids become type/*, for each action on its own; a list
    needs its whole type. What does not fit into one policy is split, with --json one a line.
    """
    from gateway.call import Effect  # noqa: PLC0415
    from gateway.policy.suggestion import Needs  # noqa: PLC0415

    settings = settings_from(**options)
    caller = _one_holder(settings, user=user, role=role, owner_uin=owner_uin)
    needs = Needs()

    def add(call: "RecordedCall") -> None:
        principal = call.question.query.principal
        is_theirs = (principal.owner_uin, principal.uin) == (caller.owner_uin, caller.uin)
        if is_theirs and (include_denied or call.effect is Effect.ALLOW):
            needs.add(call)

    _each_call(add, settings, corpus=corpus, since=since, uin=caller.uin)
    suggestion = needs.suggest(keep_ids=keep_ids, ids_max=ids_max)
    for document in suggestion.documents:
        click.echo(json.dumps(document, indent=None if as_json else 2, ensure_ascii=False))
    span = ""
    if needs.first is not None and needs.last is not None:
        span = f", from {wire_time(needs.first)} to {wire_time(needs.last)}"
    click.echo(f"Made from {needs.calls} calls of {caller.name}{span}.", err=True)
    for resource in suggestion.left_out:
        click.echo(f"Left out, for no policy can allow it: {resource}", err=True)


def _one_holder(
    settings: Settings, *, user: str | None, role: str | None, owner_uin: str | None
) -> "Principal":
    from gateway.commands import loading  # noqa: PLC0415

    if (user is None) is (role is None):
        misuse("give one --user or --role")
    [found] = loading.chosen_callers(
        loading.read_snapshot(settings),
        users=(user,) if user is not None else (),
        roles=(role,) if role is not None else (),
        owner_uin=owner_uin or settings.root_uin,
    )
    return found


def _each_call(
    add: Callable[["RecordedCall"], None],
    settings: Settings,
    *,
    corpus: Path | None,
    since: datetime | None,
    uin: str = "",
) -> None:
    """Hand over every call of an export, or of the decision log. uin: of whom; "" for all."""
    from gateway.administration import walk_decisions  # noqa: PLC0415
    from gateway.cam.decisions.queries import Filter  # noqa: PLC0415
    from gateway.commands import recorded_calls  # noqa: PLC0415

    if (corpus is None) is (since is None):
        misuse("give one of --corpus and --since")

    def add_record(record: bytes) -> None:
        call = recorded_calls.read_call(record)
        if call is not None:
            add(call)

    def read() -> None:
        if corpus is None:
            walk_decisions(settings, Filter(user=uin, since=since), show=add_record)
            return
        for call in recorded_calls.read_file(corpus):
            add(call)

    try:
        run_or_explain(read, exit_code=2)
    except recorded_calls.Unreadable as error:
        misuse(str(error))
