"""What a task or an environment maps, mounts and redirects, checked. Pure.

Limits and codes: the API's own where documented; "our limit" where the vendor gives no number.
Source: user guide, "COS & CFS path"; data types of API 2017-03-12.
"""

from collections.abc import Iterable, Iterator, Sequence

from gateway.batch import datatypes
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
FILE_SYSTEMS = ("EXT3", "EXT4")  # NTFS is for Windows, which no node here is
SCENES = ("COS",)


def check_task_storage(spec: datatypes.Task, *, xml_only: bool) -> None:
    """Check everything of a task that names a file or folder, here or far away."""
    disks: Sequence[datatypes.MountDataDisk] = []
    if spec.compute_env is not None:
        disks = spec.compute_env.mount_data_disks
        _check_agent(spec.compute_env.agent_running_mode)
    _check_inputs(spec.input_mappings, xml_only=xml_only)
    _check_outputs(spec.output_mappings, xml_only=xml_only)
    _check_output_configs(spec.output_mapping_configs)
    _check_disks(disks)
    _check_targets(
        *[mapping.destination_path for mapping in spec.input_mappings],
        *[mapping.source_path for mapping in spec.output_mappings],
        *[disk.local_path for disk in disks],
    )
    _check_authentications(spec.authentications)
    _check_redirection(spec.redirect_info, xml_only=xml_only)
    _check_local_redirection(spec.redirect_local_info)
    check_kept_places(spec)


def check_env_storage(env: datatypes.NamedComputeEnv, *, xml_only: bool = False) -> None:
    """Check the mappings, disks and keys of a named environment."""
    _check_agent(env.agent_running_mode)
    _check_inputs(env.input_mappings, xml_only=xml_only)
    _check_disks(env.mount_data_disks)
    _check_targets(
        *[mapping.destination_path for mapping in env.input_mappings],
        *[disk.local_path for disk in env.mount_data_disks],
    )
    _check_authentications(env.authentications)


def check_kept_places(
    spec: datatypes.Task,
    *,
    env_inputs: Sequence[datatypes.InputMapping] = (),
    env_disks: Sequence[datatypes.MountDataDisk] = (),
) -> None:
    """Refuse logs to be copied to, or output to be kept from, a folder of a file server.

    env_inputs, env_disks: what the task's named environment brings, checked before.
    Raises InvalidParameterValue.LocalPath.

    Why: what is copied is copied by us, who may do more there than the command; and the command,
    which may write there itself, could lead us elsewhere by links.
    """
    if not spec.output_mappings and spec.redirect_local_info is None:
        return
    on_server = {view.WORK: False}
    for mapping in (*env_inputs, *spec.input_mappings):
        is_cos = mapping.source_path.startswith("cos://")
        on_server[check_local_path("DestinationPath", mapping.destination_path)] = not is_cos
    own_disks = spec.compute_env.mount_data_disks if spec.compute_env else env_disks
    taken = {check_local_path("DestinationPath", e.destination_path) for e in spec.input_mappings}
    disks = {check_local_path("LocalPath", each.local_path) for each in own_disks}
    on_server |= dict.fromkeys(disks - taken, False)
    kept = [check_local_path("SourcePath", each.source_path) for each in spec.output_mappings]
    on_server |= {each: False for each in kept if not each.startswith(f"{view.WORK}/")}
    redirect = spec.redirect_local_info or datatypes.RedirectLocalInfo()
    logs = _given([redirect.stdout_local_path, redirect.stderr_local_path])
    for path in (*kept, *(check_local_path("RedirectLocalInfo", each) for each in logs)):
        above = [each for each in on_server if f"{path}/".startswith(f"{each}/")]
        if above and on_server[max(above, key=len)]:
            raise InvalidParameterValue(
                f"`{path}` is in a folder of a file server (`cfs://`, `nfs://`): the command can"
                " write there itself, and nothing else is copied there or kept from there.",
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


def _check_count(name: str, values: Sequence[object]) -> None:
    if len(values) > MAPPINGS_MAX:
        raise InvalidParameterValue(f"There are more than {MAPPINGS_MAX} {name}.")


def _check_inputs(mappings: Sequence[datatypes.InputMapping], *, xml_only: bool) -> None:
    _check_count("InputMappings", mappings)
    for mapping in mappings:
        parse_input_source(mapping.source_path, xml_only=xml_only)
        check_local_path("DestinationPath", mapping.destination_path)
        check_choice("MountType", mapping.mount_type or None, MOUNT_TYPES)
        check_text("MountOptionParameter", mapping.mount_option_parameter, most=PATH_MAX)


def _check_outputs(mappings: Sequence[datatypes.OutputMapping], *, xml_only: bool) -> None:
    _check_count("OutputMappings", mappings)
    for mapping in mappings:
        check_local_path("SourcePath", mapping.source_path)
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


def _check_disks(disks: Sequence[datatypes.MountDataDisk]) -> None:
    _check_count("MountDataDisks", disks)
    for disk in disks:
        check_local_path("LocalPath", disk.local_path)
        check_choice("FileSystemType", disk.file_system_type or None, FILE_SYSTEMS)


def _check_targets(*paths: str) -> None:
    """Refuse two mappings at one place, and one that would hide the command's own folder.

    Why also an input and an output at one place: the input is mounted read-only there, so the
    command could leave nothing. One below the other is fine.
    """
    seen = {view.WORK}
    for path in paths:
        clean = check_local_path("The local path", path)
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


def _check_local_redirection(redirect: datatypes.RedirectLocalInfo | None) -> None:
    if redirect is None:
        return
    for path in (redirect.stdout_local_path, redirect.stderr_local_path):
        if path:
            check_local_path("RedirectLocalInfo", path)
    _check_file_names(redirect.stdout_local_file_name, redirect.stderr_local_file_name)


def _check_file_names(*names: str | None) -> None:
    for name in _given(names):
        if not is_file_name(name):
            raise InvalidParameterValue(f"`{name}` cannot be a file's name.", detail="LocalPath")


def _given(texts: Iterable[str | None]) -> Iterator[str]:
    return (text for text in texts if text)
