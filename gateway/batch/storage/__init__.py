"""Storage: what a remote path means, and where the bytes go.

Every implementation passes the conformance suite in `tests/conformance/`.

All methods block; they run in threads. What goes wrong is an OSError of the class that fits
(FileNotFoundError, PermissionError, TimeoutError …) whose `strerror` is a sentence for the owner of
the job: it names files as the job knows them, and no key and no path of the machine. `errno` tells
what may pass by itself (`PASSING`) from what will not.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gateway.batch.storage.paths import (
    KEY_MAX,
    NAME_BYTES_MAX,
    NfsPath,
    RemoteFile,
    RemotePath,
    is_file_name,
    parse_cos_file,
    parse_cos_folder,
    parse_input_source,
)

__all__ = [
    "KEY_MAX",
    "NAME_BYTES_MAX",
    "PART_MB",
    "PASSING",
    "WORKERS",
    "Halted",
    "Keys",
    "NfsPath",
    "RemoteFile",
    "RemotePath",
    "Storage",
    "is_file_name",
    "never",
    "parse_cos_file",
    "parse_cos_folder",
    "parse_input_source",
]

WORKERS = 4
"""How many files, or parts of one file, are stored at once when nobody says."""

PART_MB = 8
"""The size of the parts of a large file when nobody says."""

Halted = Callable[[], bool]
"""Whether what is being done is no longer wanted; looked at often, in any thread."""


def never() -> bool:
    """Nobody stops it."""
    return False


@dataclass(frozen=True, slots=True)
class Keys:
    """A key pair that opens somebody's buckets, as Authentications give it."""

    secret_id: str
    secret_key: str = field(repr=False)


PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EDQUOT,
        errno.EHOSTUNREACH,
        errno.EMFILE,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EPIPE,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""Errors of a storage that is away, fails, or is full for now; EREMOTEIO: a service says so."""


class Storage(Protocol):
    """Where `cos://` paths lead.

    keys: for this call alone, instead of the storage's own. Buckets in a local folder have no
    owners, so there they are ignored.
    """

    def put_file(
        self,
        source: Path,
        *,
        folder: RemotePath,
        name: str,
        keys: Keys | None = None,
        halted: Halted = never,
    ) -> None:
        """Copy a file into a folder, whole or not at all, replacing what was there.

        halted: asked often; once it is true, the copying ends with ECANCELED.
        """
        ...

    def put_tree(
        self,
        source: Path,
        *,
        folder: RemotePath,
        keys: Keys | None = None,
        workers: int = WORKERS,
        part_mb: int = PART_MB,
        halted: Halted = never,
    ) -> tuple[str, ...]:
        """Copy the files and empty folders below `source` into a folder, each whole or not at all.

        workers: how many are copied at once. part_mb: size in MB of the parts of a large file;
        both are brought into what the storage can do. halted: see `put_file`. Returns the names of
        what was left out, the first few: links that lead elsewhere than to a file below `source`,
        and whatever is neither file nor folder. After an error some files may be there; one that is
        of a single name, such as one that no bucket takes, keeps no other from being copied.

        Why links are left out, and no error: a bucket has none; to follow one out of the folder
        would hand out files of the machine with the gateway's rights; and a result whose folder
        holds such a link, as every Python environment does, is not a failure.
        """
        ...

    def fetch_tree(
        self,
        folder: RemotePath,
        target: Path,
        *,
        keys: Keys | None = None,
        halted: Halted = never,
    ) -> None:
        """Copy all that is below a folder into the local folder `target`, which exists.

        halted: see `put_file`. Raises FileNotFoundError if there is no such folder or bucket, and
        OSError for a name that no file here can have, or that is both a file and a folder; with
        ENOSPC before the last room of the disk is taken. Nothing is written outside `target`, and
        no file is there by half; after an error some files may be there.
        """
        ...

    def fetch_file(
        self,
        path: RemoteFile,
        target: Path,
        *,
        keys: Keys | None = None,
        bytes_max: int,
        halted: Halted = never,
    ) -> None:
        """Copy one file to `target`, whole or not at all. The folder of `target` exists.

        halted: see `put_file`. Raises FileNotFoundError if it is not there, OSError if it is larger
        than `bytes_max`, or has no room, as in `fetch_tree`.
        """
        ...

    def find_folder(self, folder: RemotePath) -> Path | None:
        """The local folder that is the remote one, and can be mounted; None: it must be fetched.

        Raises FileNotFoundError if there is no such folder or bucket. Whoever mounts it must not
        follow links that may have been put there since.
        """
        ...
