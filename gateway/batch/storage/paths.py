"""The forms of paths, remote ones and those on a node, and what they name. Pure."""

import ipaddress
import re
from dataclasses import dataclass

from gateway.errors import InvalidParameterValue

KEY_MAX = 1_024
"""Bytes, as a bucket has it."""

NAME_BYTES_MAX = 255
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?-(?:[0-9]{5,12}|appid)")
"""The word `appid` itself stands where the number belongs in examples of the vendor's own."""
_REGION = r"[a-z]{2,}(?:-[a-z0-9]+)+"
_XML_DOMAIN = re.compile(rf"cos\.{_REGION}\.myqcloud\.com")
_DOMAIN = re.compile(rf"(?:(?:cos\.)?{_REGION}|cos[a-z]{{2,6}})\.myqcloud\.com")
_COS = "cos://<bucket>-<appid>.cos.<region>.myqcloud.com"


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A folder in a bucket: `cos://<bucket>.<domain>/<key>`; key is "" or ends with "/"."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a bucket: `cos://<bucket>.<domain>/<key>`; key is not "" and ends without "/"."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class NfsPath:
    """A folder on a file server: `cfs://<host>/<key>`; host is IPv4; key is "" or ends with "/"."""

    host: str
    key: str

    def __str__(self) -> str:
        return f"{self.host}/{self.key}"


def parse_cos_folder(text: str, *, xml_only: bool = False) -> RemotePath:
    """Read a `cos://` folder path, as redirections and output mappings take it.

    xml_only: accept only the XML domain, as the guide asks.
    Raises InvalidParameterValue with detail RemoteStorageSchemeType or RemoteStoragePath.

    Why: the guide allows only the XML domain (`cos.ap-guangzhou.myqcloud.com`), yet the vendor's
    own examples use the older `cosgz.myqcloud.com`, and one leaves `cos.` away; unless told
    otherwise all are accepted, and name the same bucket.
    """
    _check_scheme(text, {"cos"})
    path = _bucket_and_key(text, xml_only=xml_only)
    if path is None or not is_folder_key(path[1]):
        raise _bad_path(text, f"{_COS}/<folder>/")
    return RemotePath(*path)


def parse_cos_file(text: str, *, xml_only: bool = False, shown: str = "") -> RemoteFile:
    """Read the `cos://` path of one file, as a package has it. Raises as `parse_cos_folder`.

    shown: how an error repeats the path, if that may hold keys.
    """
    _check_scheme(text, {"cos"}, shown=shown)
    path = _bucket_and_key(text, xml_only=xml_only)
    if path is None or not path[1] or not is_folder_key(f"{path[1]}/"):
        raise _bad_path(shown or text, f"{_COS}/<file>")
    return RemoteFile(*path)


def parse_input_source(text: str, *, xml_only: bool = False) -> RemotePath | NfsPath:
    """Read a folder that can be mapped to a local one: `cos://`, `cfs://` or `nfs://`.

    Raises as `parse_cos_folder`. `cfs://` and `nfs://` are two spellings of one thing.
    """
    scheme = _check_scheme(text, {"cos", "cfs", "nfs"})
    if scheme == "cos":
        return parse_cos_folder(text, xml_only=xml_only)
    host, slash, key = text.partition("://")[2].partition("/")
    if not slash or not _is_ipv4(host) or not is_folder_key(key):
        raise _bad_path(text, f"{scheme}://<IPv4 address>/<folder>/")
    return NfsPath(host, key)


def _check_scheme(text: str, allowed: set[str], *, shown: str = "") -> str:
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in allowed:
        forms = " or ".join(f"`{each}://`" for each in ("cos", "cfs", "nfs") if each in allowed)
        raise InvalidParameterValue(
            f"The storage type of `{shown or text}` is not one that can be used here: use {forms}.",
            detail="RemoteStorageSchemeType",
        )
    return scheme


def _bucket_and_key(text: str, *, xml_only: bool) -> tuple[str, str] | None:
    host, slash, key = text.partition("://")[2].partition("/")
    bucket, _, domain = host.partition(".")
    form = _XML_DOMAIN if xml_only else _DOMAIN
    good = slash and _BUCKET.fullmatch(bucket) and form.fullmatch(domain)
    return (bucket, key) if good else None


def _bad_path(text: str, form: str) -> InvalidParameterValue:
    return InvalidParameterValue(
        f"The storage path `{text}` is not of the form `{form}`.", detail="RemoteStoragePath"
    )


def _is_ipv4(host: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def is_folder_key(key: str) -> bool:
    """Whether `key` names a folder, "" the topmost, by parts that a file system has too."""
    if key and not key.endswith("/"):
        return False
    parts = key.split("/")[:-1]
    return len(key.encode(errors="surrogatepass")) <= KEY_MAX and all(
        _is_part(part) for part in parts
    )


def _is_part(part: str) -> bool:
    """Whether one name inside a key is safe on a file system: nothing empty, hidden or upward."""
    return is_name(part) and part.isprintable()


def is_file_name(name: str) -> bool:
    """Whether `name` can be the name of a file in a folder, and of nothing else."""
    return "/" not in name and _is_part(name)


def is_name(part: str) -> bool:
    """Whether `part` can be one name in a folder: as `is_file_name`, but also not printable."""
    if part in {"", ".", ".."} or "\0" in part or "/" in part:
        return False
    return len(part.encode(errors="surrogatepass")) <= NAME_BYTES_MAX


def clean_path(path: str) -> str:
    """An absolute path on a node without repeated or trailing slashes, and without `.`."""
    return "/" + "/".join(part for part in path.split("/") if part not in {"", "."})
