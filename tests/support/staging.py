"""What stands for a command that reads and writes files, for storage that is slow, and for servers
of packages.
"""

import io
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from gateway.batch.engines import Launch
from gateway.batch.storage import RemotePath
from gateway.batch.storage.local import LocalStorage
from tests.support.fake_engine import FakeEngine

BUCKET = "batchdemo-1251783334"
COS = f"cos://{BUCKET}.cos.ap-guangzhou.myqcloud.com/"
WAIT_S = 60.0


class Machine(FakeEngine):
    """An engine whose commands are functions: each finds and leaves files where a real one would.

    command: called with every launch; returns its exit code, None to let it run on.
    """

    def __init__(self, root: Path, command: Callable[["Machine", Launch], int | None]) -> None:
        super().__init__(root, answer=self._run)
        self._command = command

    def _run(self, launch: Launch) -> int | None:
        self.attempt_path(launch.folder).mkdir(parents=True, exist_ok=True)
        self.work(launch).mkdir(exist_ok=True)
        for stream in ("stdout", "stderr"):
            self.log_path(launch.folder, stream).write_text(f"{stream} of {launch.attempt_id}\n")
        return self._command(self, launch)

    def work(self, launch: Launch) -> Path:
        return self.attempt_path(launch.folder) / "work"

    def seen_at(self, launch: Launch, target: str) -> Path:
        """What the command sees at a path that is mounted for it."""
        [mount] = [each for each in launch.mounts if each.target == target]
        return Path(mount.source)

    @property
    def commands(self) -> Sequence[str]:
        """What was run so far."""
        return [launch.command for launch in self.started]


class FarStorage(LocalStorage):
    """A bucket that cannot be mounted: its folders are fetched, and only while `open_` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.open_ = threading.Event()
        self.fetching = threading.Semaphore(0)
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def find_folder(self, folder: RemotePath) -> Any:
        return None

    def fetch_tree(self, folder: RemotePath, target: Path, **kwargs: Any) -> None:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        self.fetching.release()
        assert self.open_.wait(timeout=WAIT_S)
        LocalStorage(self._root).fetch_tree(folder, target, **kwargs)
        with self._lock:
            self.at_once -= 1


def put(root: Path, key: str, content: bytes = b"x") -> Path:
    """Put a file into the bucket, by hand."""
    path = root / "cos" / BUCKET / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def package(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"codepkg/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@asynccontextmanager
async def web_server(handler: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """A web server that answers everything so; gives its address."""
    app = web.Application()
    app.router.add_get("/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
