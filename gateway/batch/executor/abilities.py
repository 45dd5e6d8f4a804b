"""What an executor can do on its machine, and why not the rest. Pure."""

from collections.abc import Mapping

from gateway.batch.engines import Ability
from gateway.batch.executor.control_groups import ControlGroups
from gateway.batch.executor.isolation import Isolation

LIMITS = (Ability.CPU, Ability.MEMORY, Ability.PROCESSES)


def why_no_mounts(isolation: Isolation) -> str:
    """Why a command sees no folder that is mapped for it; "" if it does."""
    if isolation.mounts_at is not None:
        return ""
    return f"the isolation `{isolation.name}` mounts nothing"


def why_no_limits(groups: ControlGroups) -> Mapping[Ability, str]:
    """The limits that cannot be kept, each with why. groups: claimed."""
    return {
        each: groups.missing.get(each, "there are no control groups here")
        for each in LIMITS
        if each not in groups.abilities
    }


def missing_abilities(
    isolation: Isolation, *, groups: ControlGroups, no_containers: str
) -> Mapping[Ability, str]:
    """Every ability that is not there, with a sentence's worth of why.

    no_containers: why there are none; empty if there are.
    """
    missing = dict(why_no_limits(groups))
    if no_mounts := why_no_mounts(isolation):
        missing[Ability.MOUNTS] = no_mounts
    if no_containers:
        missing[Ability.CONTAINERS] = no_containers
    return missing
