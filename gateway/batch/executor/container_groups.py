"""The control groups that podman makes for a container, and their end.

Why it is ours to see to: podman removes the groups of a container that ended by itself, not those
of one that was killed with the process that looked after it; and on v1 there are ten of each.
"""

import os
import subprocess
from typing import Final

from gateway.batch.executor.isolation import PATH

ID_FILE: Final = "id"  # of the container, in SCRATCH; there before any group is
REMOVE_S_MAX: Final = 60
_PARENTS: Final = "/sys/fs/cgroup/*/libpod_parent /sys/fs/cgroup/libpod_parent"  # v1, v2
GROUPS_GO: Final = (
    f'if id=$(cat "$scratch/{ID_FILE}"); then for parent in {_PARENTS}; do'
    ' find "$parent/libpod-$id" -depth -type d -exec rmdir {} +; done; fi 2>/dev/null'
)
"""A shell's words: remove the groups of the container whose id stands in the folder `$scratch`."""


def remove_groups(scratch: str) -> None:
    """Remove the groups of a container that is gone. scratch: what only the container needed.

    Raises OSError or SubprocessError.
    """
    if os.path.exists(f"{scratch}/{ID_FILE}"):
        subprocess.run(  # noqa: S603  # our own argv
            ["/bin/sh", "-c", f"scratch=$1; {GROUPS_GO}", "container-groups", scratch],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            timeout=REMOVE_S_MAX,
            check=False,
        )
