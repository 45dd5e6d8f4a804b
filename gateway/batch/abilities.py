"""What a request needs that not every engine can do: refused before it is stored. Pure."""

from collections.abc import Set as AbstractSet
from typing import Final

from gateway.batch import bare_metal, datatypes
from gateway.batch.engines import Ability
from gateway.batch.staging.places import EnvStorage, has_mounts
from gateway.batch.validation import JobPlan
from gateway.errors import UnsupportedOperation

NOWHERE: Final = EnvStorage()


def check_abilities(plan: JobPlan, abilities: AbstractSet[Ability]) -> None:
    """Refuse a job of which a task could never run here. Raises UnsupportedOperation.

    Why at submission: the vendor has no code for it, and a job that waits for days and then fails
    for what was known at its beginning helps nobody.
    """
    for task in plan.tasks:
        if task.spec.application.docker is not None:
            _check_containers(task.name, abilities)
        elif has_mounts(task.spec, NOWHERE):
            _check_mounts(f"The task `{task.name}`", abilities)


def check_env_abilities(
    env: datatypes.NamedComputeEnv | bare_metal.NamedCpmComputeEnv, abilities: AbstractSet[Ability]
) -> None:
    """Refuse an environment whose mappings or disks no command, in a container or not, could see.

    Raises UnsupportedOperation.
    """
    disks = env.mount_data_disks if isinstance(env, datatypes.NamedComputeEnv) else []
    if (env.input_mappings or disks) and Ability.CONTAINERS not in abilities:
        _check_mounts("The environment", abilities)


def _check_containers(task_name: str, abilities: AbstractSet[Ability]) -> None:
    if Ability.CONTAINERS not in abilities:
        raise UnsupportedOperation(
            f"The task `{task_name}` runs in a container, and none can run here. It takes a"
            " gateway that runs as root, and podman or docker that works: `qcs-gateway doctor`,"
            " run as the gateway's user, says what is missing."
        )


def _check_mounts(who: str, abilities: AbstractSet[Ability]) -> None:
    if Ability.MOUNTS not in abilities:
        raise UnsupportedOperation(
            f"{who} maps folders, and commands run here without a sandbox that could show them:"
            " install bubblewrap and set `isolation` to `sandbox`, or leave output in `/work`."
        )
