"""What an executor can do on its machine, and why not the rest. Pure."""

from collections.abc import Mapping

from gateway.batch.engines import Ability
from gateway.batch.executor.control_groups import ControlGroups
from gateway.batch.executor.isolation import Isolation

LIMITS = (Ability.CPU, Ability.MEMORY, Ability.PROCESSES)


def missing_abilities(
    isolation: Isolation, *, groups: ControlGroups, no_containers: str
) -> Mapping[Ability, str]:
    """Every ability that is not there, with a sentence's worth of why.

    no_containers: why there are none; empty if there are.
    """
    missing = {
        each: groups.missing.get(each, "there are no control groups here")
        for each in LIMITS
        if each not in groups.abilities
    }
    if isolation.mounts_at is None:
        missing[Ability.MOUNTS] = f"the isolation `{isolation.name}` mounts nothing: use `sandbox`"
    if no_containers:
        missing[Ability.CONTAINERS] = no_containers
    return missing
