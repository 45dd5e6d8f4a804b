"""`cos://` on a local folder: `<root>/<bucket>/<key>`."""

import os
import shutil
import tempfile
from pathlib import Path

from gateway.batch.storage import RemotePath, is_file_name


class LocalStorage:
    """A `Storage` that keeps buckets as folders under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_file(self, source: Path, *, folder: RemotePath, name: str) -> None:
        """See `Storage.put_file`."""
        target = self._inside(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, written = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file, source.open("rb") as content:
                shutil.copyfileobj(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(written, 0o644)
            os.replace(written, target)
        except BaseException:
            Path(written).unlink(missing_ok=True)
            raise

    def _inside(self, folder: RemotePath, name: str) -> Path:
        """The file's place. The forms were checked before; this is the second lock."""
        root = self._root.resolve()
        target = (root / folder.bucket / folder.key).resolve() / name
        if not target.is_relative_to(root / folder.bucket) or not is_file_name(name):
            raise PermissionError(f"{folder.key}{name} leads out of its bucket")
        return target
