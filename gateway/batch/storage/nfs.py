"""`cfs://` and `nfs://` on a local folder: `<root>/<host>/<key>`, mounted there by an operator."""

import errno
import os
from pathlib import Path

from gateway.batch.storage import NfsPath, trees


class NfsRoot:
    """The file servers that jobs may use: those that have a folder below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_folder(self, folder: NfsPath) -> Path:
        """The local folder that is the remote one, free of links.

        Raises FileNotFoundError if there is none, PermissionError if a link leads out of what the
        server shares. Whoever mounts it must not follow links that may have been put there since:
        jobs may write in such a folder.

        Why links inside of what a server shares are followed, unlike those in a bucket: a file
        server has them, and its clients follow them.
        """
        share = Path(os.path.realpath(self._root)) / folder.host
        try:
            parts = trees.local_parts(f"{folder.host}/{folder.key}".removesuffix("/"))
            found = share.joinpath(*parts[1:]).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(folder) from None
        except (OSError, RuntimeError):  # a loop of links
            raise trees.problem(errno.EACCES, f"`{folder}` cannot be reached.") from None
        if not found.is_relative_to(share):
            raise trees.problem(errno.EACCES, f"`{folder}` leads out of what its server shares.")
        if not found.is_dir():
            raise _absent(folder)
        return found


def _absent(folder: NfsPath) -> OSError:
    return trees.problem(errno.ENOENT, f"The folder `{folder}` does not exist.")
