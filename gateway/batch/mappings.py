"""What a task or an environment maps, mounts and redirects, checked. Pure.

Limits and codes: the API's own where documented; "our limit" where the vendor gives no number.
Source: user guide, "COS & CFS path"; data types of API 2017-03-12.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gateway.batch import datatypes, windows_paths
from gateway.batch.engines import view
from gateway.batch.members import check_choice, check_range, check_text
from gateway.batch.storage.paths import (
    clean_path,
    is_file_name,
    parse_cos_folder,
    parse_input_source,
)
from gateway.errors import InvalidParameterValue

MAPPINGS_MAX = 100  # our limit, for each list of a task or an environment
PATH_MAX = 1_024  # our limit, in bytes
WORKERS_MAX = 100  # our limit
PART_MAX_MB = 5_120  # the largest part that COS takes
MOUNT_TYPES = ("COSFS", "GooseFS-Lite")
WORKSPACES = ("BATCH_WORKSPACE", "GLOBAL_WORKSPACE")
FILE_SYSTEMS = ("EXT3", "EXT4")
SCENES = ("COS",)


@dataclass(frozen=True, slots=True)
class System:
    """What of a node's system matters here.

    check_path: checks a path that a member names, and returns what it is compared by.
    """

    check_path: Callable[[str, str], str]
    file_systems: tuple[str, ...]


def check_task_storage(spec: datatypes.Task, *, xml_only: bool, on_windows: bool = False) -> None:
    """Check everything of a task that names a file or folder, here or far away."""
    system = WINDOWS if on_windows else LINUX
    disks: Sequence[datatypes.MountDataDisk] = []
    if spec.compute_env is not None:
        disks = spec.compute_env.mount_data_disks
        _check_agent(spec.compute_env.agent_running_mode)
    _check_inputs(spec.input_mappings, system, xml_only=xml_only)
    _check_outputs(spec.output_mappings, system, xml_only=xml_only)
    _check_output_configs(spec.output_mapping_configs)
    _check_disks(disks, system)
    inputs = [mapping.destination_path for mapping in spec.input_mappings]
    outputs = [mapping.source_path for mapping in spec.output_mappings]
    _check_targets([*inputs, *outputs], system)
    _check_targets([*inputs, *[disk.local_path for disk in disks]], system)
    _check_authentications(spec.authentications)
    _check_redirection(spec.redirect_info, xml_only=xml_only)
    _check_local_redirection(spec.redirect_local_info, system)
    check_kept_places(spec)


def check_env_storage(
    env: datatypes.NamedComputeEnv, *, xml_only: bool, on_windows: bool = False
) -> None:
    """Check the mappings, disks and keys of a named environment."""
    system = WINDOWS if on_windows else LINUX
    _check_agent(env.agent_running_mode)
    _check_inputs(env.input_mappings, system, xml_only=xml_only)
    _check_disks(env.mount_data_disks, system)
    inputs = [mapping.destination_path for mapping in env.input_mappings]
    _check_targets([*inputs, *[disk.local_path for disk in env.mount_data_disks]], system)
    _check_authentications(env.authentications)


def check_kept_places(
    spec: datatypes.Task,
    *,
    env_inputs: Sequence[datatypes.InputMapping] = (),
    env_disks: Sequence[datatypes.MountDataDisk] = (),
) -> None:
    """Refuse an output in place of an input, and logs to be copied to a folder of a file server.

    env_inputs, env_disks: what the task's named environment brings, checked before.
    Raises InvalidParameterValue.LocalPath.

    Why no logs on a server: what is copied is copied by us, who may do more there than the command;
    and the command, which may write there itself, could lead us elsewhere by links.
    """
    if not spec.output_mappings and spec.redirect_local_info is None:
        return
    is_server: dict[str, bool] = {}  # of each input, by where it is seen
    for mapping in (*env_inputs, *spec.input_mappings):
        is_cos = mapping.source_path.startswith("cos://")
        is_server[clean_path(mapping.destination_path)] = not is_cos
    own_disks = spec.compute_env.mount_data_disks if spec.compute_env else env_disks
    places = {view.WORK, *is_server, *(clean_path(disk.local_path) for disk in own_disks)}
    kept = [mapping.source_path for mapping in spec.output_mappings]
    for path in kept:
        if clean_path(path) in is_server:
            raise InvalidParameterValue(
                f"`{path}` is taken: an InputMapping is seen there, and would be hidden.",
                detail="LocalPath",
            )
    redirect = spec.redirect_local_info or datatypes.RedirectLocalInfo()
    for path in _given([redirect.stdout_local_path, redirect.stderr_local_path]):
        if is_server.get(view.nearest_above(clean_path(path), {*places, *map(clean_path, kept)})):
            raise InvalidParameterValue(
                f"`{path}` is in a folder of a file server (`cfs://`, `nfs://`): the command can"
                " write there itself, and nothing else is copied there.",
                detail="LocalPath",
            )


def check_local_path(name: str, path: str) -> str:
    """Check a path on a node; returns it without repeated and trailing slashes.

    It must be absolute, lead nowhere up, and hide nothing of the system: no command could run
    under a mapping at `/usr`. `:` and `,` are for container engines what parts a path from its
    options. Raises InvalidParameterValue.LocalPath.
    """
    good = path.startswith("/") and path.isprintable() and len(path.encode()) <= PATH_MAX
    if not good or ".." in path.split("/") or any(sign in path for sign in ":,"):
        raise InvalidParameterValue(
            f"{name} `{path}` is not an absolute path on a Linux node.", detail="LocalPath"
        )
    clean = clean_path(path)
    if view.is_of_the_system(clean):
        raise InvalidParameterValue(
            f"{name} `{path}` belongs to the node's own system.", detail="LocalPath"
        )
    return clean


LINUX = System(check_local_path, FILE_SYSTEMS)
WINDOWS = System(windows_paths.check_windows_path, windows_paths.FILE_SYSTEMS)


def _check_count(name: str, values: Sequence[object]) -> None:
    if len(values) > MAPPINGS_MAX:
        raise InvalidParameterValue(f"There are more than {MAPPINGS_MAX} {name}.")


def _check_inputs(
    mappings: Sequence[datatypes.InputMapping], system: System, *, xml_only: bool
) -> None:
    _check_count("InputMappings", mappings)
    for mapping in mappings:
        parse_input_source(mapping.source_path, xml_only=xml_only)
        system.check_path("DestinationPath", mapping.destination_path)
        check_choice("MountType", mapping.mount_type or None, MOUNT_TYPES)
        check_text("MountOptionParameter", mapping.mount_option_parameter, most=PATH_MAX)


def _check_outputs(
    mappings: Sequence[datatypes.OutputMapping], system: System, *, xml_only: bool
) -> None:
    _check_count("OutputMappings", mappings)
    for mapping in mappings:
        system.check_path("SourcePath", mapping.source_path)
        parse_cos_folder(mapping.destination_path, xml_only=xml_only)
        option = mapping.output_mapping_option
        if option is not None:
            check_choice("Workspace", option.workspace or None, WORKSPACES)


def _check_output_configs(configs: Sequence[datatypes.OutputMappingConfig]) -> None:
    if len(configs) > len(SCENES):
        raise InvalidParameterValue("OutputMappingConfigs has more than one of a Scene.")
    for config in configs:
        check_choice("Scene", config.scene, SCENES)
        check_range("WorkerNum", config.worker_num, least=1, most=WORKERS_MAX)
        check_range("WorkerPartSize", config.worker_part_size, least=1, most=PART_MAX_MB)


def _check_disks(disks: Sequence[datatypes.MountDataDisk], system: System) -> None:
    _check_count("MountDataDisks", disks)
    for disk in disks:
        system.check_path("LocalPath", disk.local_path)
        check_choice("FileSystemType", disk.file_system_type or None, system.file_systems)


def _check_targets(paths: Sequence[str], system: System) -> None:
    """Refuse two mappings at one place, and one that would hide the command's own folder.

    Why also an input and an output at one place: the input is mounted read-only there, so the
    command could leave nothing. One below the other is fine.
    """
    seen = {view.WORK}
    for path in paths:
        clean = system.check_path("The local path", path)
        if clean in seen:
            raise InvalidParameterValue(
                f"`{path}` is taken: two mappings or disks have it, or it is the folder that"
                " commands run in.",
                detail="LocalPath",
            )
        seen.add(clean)


def _check_authentications(authentications: Sequence[datatypes.Authentication]) -> None:
    """Check keys of remote storage. Their words are never repeated in an error.

    Why only one: nothing in the data type tells which of two keys would open which bucket.
    """
    if len(authentications) > len(SCENES):
        raise InvalidParameterValue("Authentications has more than one of a Scene.")
    for each in authentications:
        check_choice("Scene", each.scene, SCENES)
        check_text("SecretId", each.secret_id, least=1, most=256)
        check_text("SecretKey", each.secret_key, least=1, most=256)


def _check_agent(mode: datatypes.AgentRunningMode | None) -> None:
    """Check how the agent would run on Windows; here it is only kept and given back."""
    if mode is not None:
        check_choice("AgentRunningMode.Scene", mode.scene, ("WINDOWS",))


def _check_redirection(redirect: datatypes.RedirectInfo | None, *, xml_only: bool) -> None:
    if redirect is None:
        return
    for path in (redirect.stdout_redirect_path, redirect.stderr_redirect_path):
        if path:
            parse_cos_folder(path, xml_only=xml_only)
    _check_file_names(redirect.stdout_redirect_file_name, redirect.stderr_redirect_file_name)


def _check_local_redirection(redirect: datatypes.RedirectLocalInfo | None, system: System) -> None:
    if redirect is None:
        return
    for path in (redirect.stdout_local_path, redirect.stderr_local_path):
        if path:
            system.check_path("RedirectLocalInfo", path)
    _check_file_names(redirect.stdout_local_file_name, redirect.stderr_local_file_name)


def _check_file_names(*names: str | None) -> None:
    for name in _given(names):
        if not is_file_name(name):
            raise InvalidParameterValue(f"`{name}` cannot be a file's name.", detail="LocalPath")


def _given(texts: Iterable[str | None]) -> Iterator[str]:
    return (text for text in texts if text)
