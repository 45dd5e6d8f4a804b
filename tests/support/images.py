"""Container images of a test's own: a place for podman to keep them, and a registry that asks."""

import base64
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
IMAGE = "localhost/busybox:1"
WITHOUT_SHELL = "localhost/empty:1"
APPLETS = ("sh", "cat", "echo", "grep", "head", "id", "pwd", "setsid", "sleep", "touch", "tr")
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def busybox_tree() -> bytes:
    """A tar of a system in which one program is everything."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("bin", "etc", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        tar.add(BUSYBOX, "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return made.getvalue()


@dataclass(frozen=True, slots=True)
class ImageStore:
    """A folder that podman keeps images and containers in, and nowhere else."""

    folder: Path

    def write_settings(self, folder: Path) -> None:
        """Have podman use it: what an executor finds in its own folder."""
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{self.folder}/images"\n'
            f'runroot = "{self.folder}/run"\n'
        )
        (folder / "containers.conf").write_text(
            f'[engine]\nlock_type = "file"\ntmp_dir = "{self.folder}/engine"\n'
        )
        (folder / "registries.conf").write_text(
            '[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n'
        )

    def podman(self, *words: str, given: bytes | None = None) -> str:
        """What podman says to this, about this store."""
        names = {
            "CONTAINERS_CONF": "containers.conf",
            "CONTAINERS_STORAGE_CONF": "storage.conf",
            "CONTAINERS_REGISTRIES_CONF": "registries.conf",
        }
        environment = {name: str(self.folder / file) for name, file in names.items()}
        done = subprocess.run(
            ["podman", "--cgroup-manager", "cgroupfs", "--events-backend", "none", *words],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", **environment},
            input=given,
            capture_output=True,
            check=True,
        )
        return done.stdout.decode()

    def containers(self) -> list[str]:
        """The names of all there are, running or not."""
        return self.podman("ps", "--all", "--format", "{{.Names}}").split()

    def groups(self) -> list[Path]:
        """The control groups of all containers there are."""
        ids = self.podman("ps", "--all", "--quiet", "--no-trunc").split()
        patterns = [f"{above}libpod_parent/libpod-{each}" for each in ids for above in ("", "*/")]
        return [group for each in patterns for group in Path("/sys/fs/cgroup").glob(each)]


def make_image_store(folder: Path) -> ImageStore:
    """A store with a busybox and with an image in which there is nothing to run."""
    store = ImageStore(folder)
    store.write_settings(folder)
    store.podman("import", "-", IMAGE, given=busybox_tree())
    nothing = io.BytesIO()
    with tarfile.open(fileobj=nothing, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    store.podman("import", "-", WITHOUT_SHELL, given=nothing.getvalue())
    return store


@dataclass(slots=True)
class Registry:
    """A registry with one image. failures: how many requests for it are still answered by 500."""

    port: int
    failures: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.port}/private/busybox:1"


@contextmanager
def registry(*, user: str, password: str) -> Iterator[Registry]:
    """Serve a busybox to whoever knows the password."""
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    manifest, blobs = image_blobs(busybox_tree())
    server = ThreadingHTTPServer(("127.0.0.1", 0), RegistryCalls)
    served = Registry(server.server_port)
    server.answers = RegistryAnswers(served, wanted, manifest, blobs)  # type: ignore[attr-defined]  # ours
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def image_blobs(tree: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The manifest of an image of one layer, and what it names by digest."""
    layer = gzip.compress(tree, 1)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(tree)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": len(config), "digest": digest(config)},
            "layers": [{"mediaType": LAYER, "size": len(layer), "digest": digest(layer)}],
        }
    ).encode()
    return manifest, {digest(each): each for each in (layer, config, manifest)}


@dataclass(frozen=True, slots=True)
class RegistryAnswers:
    """What a registry says. wanted: the Authorization that lets somebody in."""

    served: Registry
    wanted: str
    manifest: bytes
    blobs: dict[str, bytes]

    def to(self, path: str, authorization: str | None) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers."""
        if authorization != self.wanted:
            return 401, b"{}", {"WWW-Authenticate": 'Basic realm="here"'}
        self.served.asked.append(path)
        if "/manifests/" not in path:
            found = self.blobs.get(path.rsplit("/", 1)[-1], b"{}")
            return 200, found, {"Content-Type": "application/octet-stream"}
        if self.served.failures > 0:
            self.served.failures -= 1
            return 500, b"{}", {}
        return 200, self.manifest, {"Content-Type": MANIFEST}


class RegistryCalls(BaseHTTPRequestHandler):
    """The registry's side of HTTP."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answers: RegistryAnswers = self.server.answers  # type: ignore[attr-defined]  # ours
        status, body, headers = answers.to(self.path, self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server asks for

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
