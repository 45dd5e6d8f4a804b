"""What images are called, and which of them were fetched with a password.

The machine's store of images is one for all. What was fetched for one account with its password is
therefore noted, before it is there, and from then on fetched again for every attempt that names it:
the registry decides who gets it. What was fetched without a password anybody could have fetched,
and what the operator put into the store is his to give; both serve as they are.

A note is a file: a folder for each repository, in it the tag or the digest. While it is not known
whether there will be such an image the name of the attempt follows, after a `~`.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Final

from gateway.batch.engines import Container

FETCHED: Final = "fetched"
_HUB: Final = "docker.io"
_HUBS: Final = frozenset({_HUB, "index.docker.io"})
_HERE: Final = "localhost"


def image_names(container: Container) -> tuple[str, ...]:
    """How the image may be called, each in full, the one to fetch it by last.

    Why a name without a registry is first looked for on `localhost`: so is an image called that
    was made on this machine. Why nowhere else: podman itself would take one of any registry whose
    name ends so, whoever had it fetched.
    """
    server = re.sub(r"^https?://|/.*$", "", container.server)
    if _has_registry(container.image):
        return (full_name(container.image),)
    if server and server not in _HUBS:
        return (full_name(f"{server}/{container.image}"),)
    return (full_name(f"{_HERE}/{container.image}"), full_name(container.image))


def full_name(name: str) -> str:
    """A name as podman lists it: `registry/repository:tag`, or `@sha256:...` in place of the tag.

    Docker leaves out its own registry, which is the one of a name without any.
    """
    rest, at, digest = name.partition("@")
    registry, rest = rest.split("/", 1) if _has_registry(rest) else (_HUB, rest)
    if registry in _HUBS:
        registry, rest = _HUB, rest if "/" in rest else f"library/{rest}"
    repository, _, tag = rest.partition(":")
    return (
        f"{registry}/{repository}@{digest}" if at else f"{registry}/{repository}:{tag or 'latest'}"
    )


def _has_registry(name: str) -> bool:
    first, slash, _ = name.partition("/")
    return bool(slash) and (bool(re.search(r"[.:]", first)) or first == _HERE)


def is_guarded(folder: str, name: str) -> bool:
    """Whether an image of this name may have been fetched with a password.

    folder: of the notes. name: in full. A digest may be that of any image of its repository.
    """
    place, mark = _place(folder, name)
    try:
        notes = os.listdir(place)
    except FileNotFoundError:
        return False
    return any(":" in mark or each.partition("~")[0] == mark for each in notes)


@dataclass(frozen=True, slots=True)
class Guard:
    """The note that an image is being fetched with a password. Made by `guard`."""

    path: str

    def keep(self) -> None:
        """The image is there. Raises OSError."""
        os.replace(self.path, self.path.rpartition("~")[0])

    def drop(self) -> None:
        """No such image came to be. Raises OSError."""
        os.unlink(self.path)


def guard(folder: str, name: str, *, attempt: str) -> Guard:
    """Note, durably, that an attempt is about to fetch an image with a password. Raises OSError.

    folder: of the notes; made if it is not there. name: in full.
    """
    place, mark = _place(folder, name)
    os.makedirs(place, mode=0o700, exist_ok=True)
    path = f"{place}/{mark}~{attempt}"
    with open(path, "w", encoding="utf-8") as note:
        note.write(f"{name}\n")
        note.flush()
        os.fsync(note.fileno())
    for each in (place, folder, os.path.dirname(folder)):
        _sync(each)
    return Guard(path)


def _sync(folder: str) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _place(folder: str, name: str) -> tuple[str, str]:
    """The folder of the notes of a repository, and the tag or the digest."""
    repository, at, digest = name.partition("@")
    mark = digest
    if not at:
        repository, _, mark = name.rpartition(":")
    return f"{folder}/{hashlib.sha256(repository.encode()).hexdigest()}", mark
