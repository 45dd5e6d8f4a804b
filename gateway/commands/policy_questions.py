"""`policy explain` and `policy simulate`: why, and what if.

A 1 is an answer of theirs, so whatever goes wrong ends with 2.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.clock import now
from gateway.commands.options import (
    config_option,
    file_type,
    json_option,
    misuse,
    owner_option,
    parsed,
    policies_option,
    settings_from,
)
from gateway.config import Settings

if TYPE_CHECKING:  # slow to import, and other verbs start without them
    from gateway.call import Principal
    from gateway.commands.asking import Circumstances
    from gateway.policy.question import Question
    from gateway.policy.simulation import Row
    from gateway.policy.snapshot import Snapshot

OPTIONS = (
    click.option("--caller", "callers", multiple=True, metavar="OWNER/UIN"),
    click.option("--user", "users", multiple=True, help="A user by name."),
    click.option("--role", "roles", multiple=True, help="A role by name."),
    owner_option,
    click.option(
        "--context", multiple=True, metavar="KEY=VALUE", help="A condition key of the call."
    ),
    click.option(
        "--attribute",
        "attributes",
        multiple=True,
        metavar="RESOURCE:KEY=VALUE",
        help="What a resource carries, such as …:job/job-x:qcs:resource_tag=team&a.",
    ),
    click.option("--session-policy", type=file_type, help="What narrows the caller's session."),
    click.option("--region", help="Where resources are that are not written out."),
    policies_option,
    config_option,
    json_option,
)


@dataclass(frozen=True, slots=True)
class Given:
    """What OPTIONS say: who asks, what is known of the call, and by which policies to judge."""

    callers: tuple[str, ...]
    users: tuple[str, ...]
    roles: tuple[str, ...]
    owner_uin: str | None
    context: tuple[str, ...]
    attributes: tuple[str, ...]
    session_policy: Path | None
    region: str | None
    policies: Path | None
    config: Path | None
    as_json: bool


def question_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb take OPTIONS, and hand them over as one `Given` before its own."""

    @wraps(verb)
    def with_given(**options: Any) -> None:
        given = Given(**{one.name: options.pop(one.name) for one in fields(Given)})
        verb(given, **options)

    for option in reversed(OPTIONS):
        with_given = option(with_given)
    return with_given


@click.command()
@click.option("--action", required=True, help="Such as batch:TerminateJob.")
@click.option("--resource", "resources", multiple=True, help="All of them must be allowed.")
@click.option("--deny-only", multiple=True, help="A resource that must not be denied.")
@click.option("--list", "lists", default="", metavar="TYPE", help="A list without ids.")
@question_options
def explain(
    given: Given,
    *,
    action: str,
    resources: tuple[str, ...],
    deny_only: tuple[str, ...],
    lists: str,
) -> None:
    """Say whether a call would be allowed, and why: exit code 0 or 1."""
    from gateway.commands import answers, asking, loading  # noqa: PLC0415
    from gateway.policy.simulation import narrowed  # noqa: PLC0415

    if len(given.callers + given.users + given.roles) != 1:
        misuse("give one --caller, --user or --role")
    if lists and resources:
        misuse("a list without ids has no --resource")
    world = _read_world(given)
    [caller] = world.callers
    question = parsed(
        lambda: asking.ask(
            caller,
            asking.find_action(action),
            resources=resources,
            deny_only=deny_only,
            lists=lists,
            known=world.known,
        )
    )
    _warn(question, world.known)
    question = narrowed(question, _session_policy(given, owner_uin=caller.owner_uin))
    policies = loading.decision_point(world.settings, world.snapshot)
    explanation, scope = question.explain(policies), question.decide(policies).scope
    if given.as_json:
        members = answers.explanation_members(question, explanation, scope)
        click.echo(json.dumps(members, ensure_ascii=False))
    else:
        click.echo(answers.explanation_text(explanation, scope))
    sys.exit(0 if explanation.decision.allowed else 1)


@click.command()
@click.option("--action", "actions", multiple=True, required=True, help="Such as batch:*.")
@click.option("--resource", "resources", multiple=True, help="Instead of all that is touched.")
@click.option(
    "--attach",
    "attached",
    multiple=True,
    metavar="FILE[:to=HOLDER]",
    help="Suppose this policy, of user/NAME, group/NAME, role/NAME or everyone.",
)
@click.option("--detach", "detached", multiple=True, metavar="NAME", help="Suppose it gone.")
@click.option("--boundary", type=file_type, help="Suppose it around the callers.")
@click.option("--expect", type=click.Choice(["allow", "deny"]), help="Exit with 1 unless all are.")
@question_options
def simulate(
    given: Given,
    *,
    actions: tuple[str, ...],
    resources: tuple[str, ...],
    attached: tuple[str, ...],
    detached: tuple[str, ...],
    boundary: Path | None,
    expect: str | None,
) -> None:
    """Tabulate who may do what, today or after changes that are only supposed."""
    from gateway.commands import answers, asking, loading  # noqa: PLC0415
    from gateway.policy import simulation  # noqa: PLC0415

    world = _read_world(given)
    supposed = _supposed(world, attached=attached, detached=detached, boundary=boundary)
    questions = parsed(
        lambda: list(
            asking.ask_each(world.callers, actions, resources=resources, known=world.known)
        )
    )
    rows = list(
        simulation.simulate(
            questions,
            today=loading.decision_point(world.settings, world.snapshot),
            supposed=loading.decision_point(world.settings, supposed),
            session_policy=_session_policy(given, owner_uin=world.owner_uin),
        )
    )
    if given.as_json:
        for row in rows:
            click.echo(json.dumps(answers.row_members(row), ensure_ascii=False))
    else:
        click.echo(answers.rows_text(rows))
    sys.exit(_differ(rows, expect))


@dataclass(frozen=True, slots=True)
class _World:
    """What a question is asked of. owner_uin: the account in which names are looked up."""

    settings: Settings
    owner_uin: str
    snapshot: "Snapshot"
    callers: list["Principal"]
    known: "Circumstances"


def _read_world(given: Given) -> _World:
    from gateway.commands import asking, loading  # noqa: PLC0415

    settings = settings_from(config=given.config, policies=given.policies)
    owner_uin = given.owner_uin or settings.root_uin
    snapshot = loading.read_snapshot(settings)
    known = parsed(
        lambda: asking.Circumstances(
            region=given.region or settings.region,
            now=now(),
            context=asking.read_context(given.context),
            attributes=asking.read_attributes(given.attributes),
        )
    )
    callers = loading.chosen_callers(
        snapshot,
        callers=given.callers,
        users=given.users,
        roles=given.roles,
        owner_uin=owner_uin,
    )
    return _World(settings, owner_uin, snapshot, callers, known)


def _warn(question: "Question", known: "Circumstances") -> None:
    """Say what was asked that no call would ask."""
    from gateway.commands import asking  # noqa: PLC0415

    query = question.query
    for resource in query.resources:
        if not question.lists and not asking.can_name(query.action, resource):
            click.echo(f"No call of {query.action} is about {resource}.", err=True)
    asked = {str(one) for one in (*query.resources, *query.deny_only)}
    for text in known.attributes:
        if text not in asked:
            misuse(f"attributes of `{text}` were given, which is not asked about")


def _session_policy(given: Given, *, owner_uin: str) -> str:
    """What narrows a session, read as STS reads it; "" for nothing."""
    from gateway.cam.session_policies import read_session_policy  # noqa: PLC0415

    file = given.session_policy
    if file is None:
        return ""
    return parsed(
        lambda: read_session_policy(file.read_text(encoding="utf-8"), owner_uin=owner_uin)
    )


def _supposed(
    world: _World,
    *,
    attached: tuple[str, ...],
    detached: tuple[str, ...],
    boundary: Path | None,
) -> "Snapshot":
    """The policies with the changes that are only supposed."""
    from gateway.commands import asking  # noqa: PLC0415
    from gateway.policy import simulation  # noqa: PLC0415
    from gateway.policy.snapshot import subject_of  # noqa: PLC0415

    owner_uin = world.owner_uin

    def change() -> "Snapshot":
        changed = world.snapshot
        for name in detached:
            changed = simulation.without_policy(changed, name, owner_uin=owner_uin)
        for text in attached:
            file, to, holder = text.rpartition(":to=")
            document = asking.read_policy(Path(file if to else text))
            subjects = (
                simulation.holders(world.snapshot, holder, owner_uin=owner_uin)
                if to
                else [subject_of(one) for one in world.callers]
            )
            changed = simulation.with_policy(
                changed, document, owner_uin=owner_uin, subjects=subjects
            )
        if boundary is not None:
            document = asking.read_policy(boundary)
            changed = simulation.with_boundary(changed, document, principals=world.callers)
        return changed

    return parsed(change)


def _differ(rows: list["Row"], expect: str | None) -> int:
    return int(
        expect is not None and any(row.explanation.decision.effect.value != expect for row in rows)
    )
