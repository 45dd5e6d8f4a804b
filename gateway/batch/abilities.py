"""What a request needs that not every engine can do: refused before it is stored. Pure."""

from collections.abc import Mapping
from typing import Final

from gateway.batch import bare_metal, datatypes
from gateway.batch.engines import Ability
from gateway.batch.executor.container_run import told
from gateway.batch.staging.places import EnvStorage, has_mounts
from gateway.batch.validation import JobPlan
from gateway.errors import UnsupportedOperation

NOWHERE: Final = EnvStorage()


def check_abilities(plan: JobPlan, missing: Mapping[Ability, str]) -> None:
    """Refuse a job of which a task could never run here. Raises UnsupportedOperation.

    missing: see `Engine`.

    Why at submission: the vendor has no code for it, and a job that waits for days and then fails
    for what was known at its beginning helps nobody.
    """
    for task in plan.tasks:
        if task.spec.application.docker is not None:
            _check_containers(task.name, missing)
        elif has_mounts(task.spec, NOWHERE):
            _check_mounts(f"The task `{task.name}`", missing)


def check_env_abilities(
    env: datatypes.NamedComputeEnv | bare_metal.NamedCpmComputeEnv, missing: Mapping[Ability, str]
) -> None:
    """Refuse an environment whose mappings or disks no command, in a container or not, could see.

    Raises UnsupportedOperation.
    """
    disks = env.mount_data_disks if isinstance(env, datatypes.NamedComputeEnv) else []
    if (env.input_mappings or disks) and Ability.CONTAINERS in missing:
        _check_mounts("The environment", missing)


def _check_containers(task_name: str, missing: Mapping[Ability, str]) -> None:
    if Ability.CONTAINERS in missing:
        raise UnsupportedOperation(
            f"The task `{task_name}` runs in a container, and none can run here:"
            f" {_sentence(missing[Ability.CONTAINERS])} It takes a gateway that runs as root, and"
            " podman or docker that works: `qcs-gateway doctor`, run as the gateway's user, looks"
            " at them."
        )


def _check_mounts(who: str, missing: Mapping[Ability, str]) -> None:
    if Ability.MOUNTS in missing:
        raise UnsupportedOperation(
            f"{who} maps folders, and a command could not see them here:"
            f" {_sentence(missing[Ability.MOUNTS])} Install bubblewrap and set `isolation` to"
            " `sandbox`, or leave output in `/work`."
        )


def _sentence(why: str) -> str:
    """A reason, fit for the caller: no path of this machine."""
    words = told(why)
    return words if words.endswith((".", "?", "!")) else f"{words}."
