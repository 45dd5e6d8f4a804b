"""The folders that a command sees besides the system's: where each is, and what it is for. Pure.

An input is a folder of a bucket or of a file server. An output is kept after the end: a new folder
of the attempt, or what the command leaves in its working folder or on a data disk. A data disk is a
folder of the node: it stays from attempt to attempt on a node of a named environment, and goes with
the attempt on an elastic one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from gateway.batch import datatypes
from gateway.batch.engines import Mount, view
from gateway.batch.executor.folders import SCRATCH, WORK
from gateway.batch.staging import StagingFailed
from gateway.batch.storage import Keys
from gateway.batch.storage.paths import clean_path
from gateway.service import Wire

INPUTS: Final = "inputs"
OUTPUTS: Final = "outputs"
DISKS: Final = "disks"
PACKAGE: Final = "package"
STAGED: Final = "staged.json"
WORKSPACE: Final = "workspace"
UNFINISHED: Final = "unfinished"
OF_THE_ATTEMPT: Final = (STAGED, WORK, SCRATCH, INPUTS, OUTPUTS, DISKS, PACKAGE, UNFINISHED)
"""What staging and the command leave in the folder of an attempt: all but its logs. The note
that it is prepared goes first.
"""
GLOBAL_WORKSPACE: Final = "GLOBAL_WORKSPACE"


class EnvStorage(Wire, forbid_unknown_fields=False):
    """What a named environment brings to every task that runs there; its keys are masked."""

    authentications: list[datatypes.Authentication] = []  # noqa: RUF012  # msgspec copies it
    input_mappings: list[datatypes.InputMapping] = []  # noqa: RUF012  # msgspec copies it
    mount_data_disks: list[datatypes.MountDataDisk] = []  # noqa: RUF012  # msgspec copies it


class Input(NamedTuple):
    """A remote folder, where the command sees it, and where it goes if it must be fetched."""

    source: str
    target: str
    folder: Path
    keys: Keys | None


@dataclass(frozen=True, slots=True)
class Order:
    """What one attempt needs. attempt: its folder. node: what its node keeps; None if elastic.

    keys, env_keys: those of the task and of its environment. package_path: where its package really
    is, if the task tells it only masked. owner_uin: the account that it counts for.
    """

    task: datatypes.Task
    attempt: Path
    env: EnvStorage = field(default_factory=EnvStorage)
    node: Path | None = None
    keys: Keys | None = None
    env_keys: Keys | None = None
    package_path: str = ""
    owner_uin: str = ""


def needs_staging(task: datatypes.Task, env: EnvStorage) -> bool:
    """Whether anything must be there before the command can run."""
    return is_package(task) or has_mounts(task, env)


def has_mounts(task: datatypes.Task, env: EnvStorage) -> bool:
    """Whether the command is to see folders elsewhere than they are."""
    return bool(
        task.input_mappings
        or env.input_mappings
        or any(not is_in_work(mapping.source_path) for mapping in task.output_mappings)
        or _disks(task, env)
    )


def is_package(task: datatypes.Task) -> bool:
    """Whether the task's command comes in an archive."""
    return task.application.delivery_form == "PACKAGE"


def inputs(order: Order) -> list[Input]:
    """The remote folders to bring, of the environment and of the task.

    Why the task's wins where both map to one place: it is the nearer wish.
    """
    own = {clean_path(each.destination_path) for each in order.task.input_mappings}
    of_env = [e for e in order.env.input_mappings if clean_path(e.destination_path) not in own]
    found = [(each, order.env_keys) for each in of_env]
    found += [(each, order.keys or order.env_keys) for each in order.task.input_mappings]
    return [
        Input(
            source=mapping.source_path,
            target=clean_path(mapping.destination_path),
            folder=order.attempt / INPUTS / name_for(mapping.destination_path),
            keys=keys,
        )
        for mapping, keys in found
    ]


def writable_mounts(order: Order) -> Iterator[Mount]:
    """The local folders that a command may write to besides its own: disks, then outputs.

    An output in the working folder or on a disk is that folder's own: it has no mount. One below an
    input has, since nobody can write there. Raises StagingFailed for one in place of an input; that
    is refused at submission, and this is the second lock.
    """
    brought = {each.target for each in inputs(order)}
    found = (clean_path(each.local_path) for each in _disks(order.task, order.env))
    disks = [disk for disk in found if disk not in brought]
    for disk in disks:
        folder = (order.node or order.attempt) / DISKS / name_for(disk)
        yield Mount(str(folder), disk, writable=True)
    for mapping in order.task.output_mappings:
        path = clean_path(mapping.source_path)
        if path in brought:
            raise StagingFailed(f"The output `{path}` would hide the input that is seen there.")
        holder = view.nearest_above(path, {view.WORK, *disks, *brought})
        if holder not in {view.WORK, *disks}:
            folder = _output(order, mapping)
            yield Mount(str(folder), path, writable=True)


def output_folders(task: datatypes.Task) -> tuple[str, ...]:
    """The folders, as the command sees them, that are there for its outputs."""
    return tuple(clean_path(each.source_path) for each in task.output_mappings)


def _output(order: Order, mapping: datatypes.OutputMapping) -> Path:
    """What is mounted for the command to leave its output in.

    Why a folder of the node for GLOBAL_WORKSPACE: the API says only that it is for containers and
    that BATCH_WORKSPACE, the default, is isolated. So the one is what the next attempt on the node
    finds as it was left, and the other is new each time.
    """
    option = mapping.output_mapping_option
    name = name_for(mapping.source_path)
    if option is not None and option.workspace == GLOBAL_WORKSPACE and order.node is not None:
        return order.node / WORKSPACE / name
    return order.attempt / OUTPUTS / name


def _disks(task: datatypes.Task, env: EnvStorage) -> Sequence[datatypes.MountDataDisk]:
    return task.compute_env.mount_data_disks if task.compute_env else env.mount_data_disks


@dataclass(frozen=True, slots=True)
class Spot:
    """A path that the command knows, as we find it: `parts` below a folder of ours, `root`.

    given: how many of the parts were made for the command; what follows is its own doing.
    """

    root: Path
    parts: tuple[str, ...]
    given: int


def find_spot(
    path: str, *, work: Path, mounts: Sequence[Mount], within: Sequence[Path]
) -> Spot | None:
    """Where a path that the command can write to really is; None if it cannot, or if that is in
    none of the folders `within`, which only we can change.

    What is in no mount and not in the working folder belongs to the attempt alone, and went with
    it. Why nothing elsewhere: in a share of a file server a command may put links where folders
    were, and others may keep there what the command could not read.
    """
    wanted = clean_path(path)
    places = [Mount(str(work), view.WORK, writable=True), *mounts]
    target = view.nearest_above(wanted, {each.target for each in places})
    nearest = next((each for each in places if each.target == target), None)
    if nearest is None or not nearest.writable:
        return None
    rest = tuple(part for part in wanted[len(nearest.target) :].split("/") if part)
    for root in within:
        if Path(nearest.source).is_relative_to(root):
            given = Path(nearest.source).relative_to(root).parts
            return Spot(root, (*given, *rest), len(given))
    return None


def is_in_work(path: str) -> bool:
    """Whether a path on the node is the working folder or below it."""
    return f"{clean_path(path)}/".startswith(f"{view.WORK}/")


def name_for(path: str) -> str:
    """The name of the folder that is mounted at `path`: another for every path, and a short one."""
    return hashlib.sha256(clean_path(path).encode()).hexdigest()[:32]
