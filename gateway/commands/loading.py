"""The policies that a verb asks, and whom of those they declare; what is wrong ends it with 2."""

from collections.abc import Sequence

import click

from gateway.call import Principal
from gateway.cam.identities import PolicyFolder, open_evaluator
from gateway.commands.asking import find_callers, is_declared
from gateway.commands.options import misuse, parsed, run_or_explain
from gateway.config import Settings
from gateway.policy.decision_point import DecisionPoint
from gateway.policy.snapshot import Snapshot, declared_callers


def read_snapshot(settings: Settings) -> Snapshot:
    """The policies of the folder that the settings name."""
    folder = PolicyFolder.of(settings)
    return run_or_explain(lambda: folder.read_snapshot(generation=1), exit_code=2)


def decision_point(settings: Settings, snapshot: Snapshot) -> DecisionPoint:
    """What decides on a snapshot, as the gateway does under the same settings."""
    folder = PolicyFolder.of(settings)
    evaluator = run_or_explain(lambda: open_evaluator(settings, folder), exit_code=2)
    return DecisionPoint(evaluator, snapshot)


def chosen_callers(
    snapshot: Snapshot,
    *,
    callers: Sequence[str] = (),
    users: Sequence[str] = (),
    roles: Sequence[str] = (),
    owner_uin: str,
) -> list[Principal]:
    """Whom the options name; everybody the account declares if they name nobody."""
    if not (callers or users or roles):
        found = [one for one in declared_callers(snapshot) if one.owner_uin == owner_uin]
        return found or misuse(f"accounts.toml declares nobody in account {owner_uin}")
    found = parsed(
        lambda: find_callers(
            snapshot, callers=callers, users=users, roles=roles, owner_uin=owner_uin
        )
    )
    for caller in found:
        if not is_declared(snapshot, caller):
            name = f"{caller.owner_uin}/{caller.uin}"
            click.echo(f"accounts.toml does not declare {name}.", err=True)
    return found
