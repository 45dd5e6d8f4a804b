"""Storage: what a remote path means, and where the bytes go.

Every implementation passes the conformance suite in `tests/conformance/`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.errors import InvalidParameterValue

KEY_MAX = 1_024
NAME_BYTES_MAX = 255
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?-[0-9]{5,12}")
_DOMAIN = re.compile(
    r"(?:cos\.[a-z]{2,}(?:-[a-z0-9]+)+|cos[a-z]{2,6}|[a-z]{2,}(?:-[a-z0-9]+)+)\.myqcloud\.com"
)


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A folder in a bucket: `cos://<bucket>.<domain>/<key>`; key is "" or ends with "/"."""

    bucket: str
    key: str


def parse_cos_folder(text: str) -> RemotePath:
    """Read a `cos://` folder path, as redirections and output mappings take it.

    Raises InvalidParameterValue with detail RemoteStorageSchemeType or RemoteStoragePath.

    Why: the guide allows only the XML domain (`cos.ap-guangzhou.myqcloud.com`), yet the vendor's
    own examples use the older `cosgz.myqcloud.com`; both are accepted and name the same bucket.
    """
    scheme, separator, rest = text.partition("://")
    if not separator or scheme != "cos":
        raise InvalidParameterValue(
            f"The storage type of `{text}` is not one that output can go to: use `cos://`.",
            detail="RemoteStorageSchemeType",
        )
    host, slash, key = rest.partition("/")
    bucket, _, domain = host.partition(".")
    good = slash and _BUCKET.fullmatch(bucket) and _DOMAIN.fullmatch(domain) and _is_key(key)
    if not good:
        raise InvalidParameterValue(
            f"The storage path `{text}` is not of the form"
            " `cos://<bucket>-<appid>.cos.<region>.myqcloud.com/<folder>/`.",
            detail="RemoteStoragePath",
        )
    return RemotePath(bucket, key)


def _is_key(key: str) -> bool:
    if key and not key.endswith("/"):
        return False
    parts = key.split("/")[:-1]
    return len(key) <= KEY_MAX and all(_is_part(part) for part in parts)


def _is_part(part: str) -> bool:
    """Whether one name inside a key is safe on a file system: nothing empty, hidden or upward."""
    is_short = len(part.encode()) <= NAME_BYTES_MAX
    return is_short and part not in {"", ".", ".."} and part.isprintable()


def is_file_name(name: str) -> bool:
    """Whether `name` can be the name of a file in a folder, and of nothing else."""
    return "/" not in name and _is_part(name)


class Storage(Protocol):
    """Where `cos://` paths lead."""

    def put_file(self, source: Path, *, folder: RemotePath, name: str) -> None:
        """Copy a file into a folder, whole or not at all, replacing what was there.

        Blocks; run it in a thread. Raises OSError.
        """
        ...
