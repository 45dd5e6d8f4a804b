"""Paths on a Windows node, checked: which may be mapped, mounted and written to. Pure.

No node here is one; what is written for the cloud's is checked, kept and given back all the same.
Source: data type MountDataDisk, which names a drive such as `H:\\`; the names Windows allows.
"""

import re

from gateway.errors import InvalidParameterValue

PATH_MAX = 1_024  # our limit, in bytes
FILE_SYSTEMS = ("NTFS",)
_PATH = re.compile(r'(?P<drive>[A-Za-z]):(?P<rest>(?:[\\/]+[^\\/:*?"<>|]+)*)[\\/]*')
_SYSTEM_DRIVE = "c:"
_SYSTEM_FOLDER = "c:\\windows"


def check_windows_path(name: str, path: str) -> str:
    r"""Check a path such as `H:\data`; returns what it is compared by: lower case, `\` once each.

    It must begin with a drive, lead nowhere up, and hide nothing of the system. Raises
    InvalidParameterValue.LocalPath.
    """
    match = _PATH.fullmatch(path) if len(path.encode()) <= PATH_MAX else None
    parts = re.split(r"[\\/]+", match["rest"])[1:] if match is not None else []
    if match is None or ".." in parts or not path.isprintable():
        raise InvalidParameterValue(
            f"{name} `{path}` is not an absolute path on a Windows node, such as `H:\\`.",
            detail="LocalPath",
        )
    kept = [part for part in parts if part != "."]
    clean = "\\".join([f"{match['drive']}:", *kept]).lower()
    if clean == _SYSTEM_DRIVE or f"{clean}\\".startswith(f"{_SYSTEM_FOLDER}\\"):
        raise InvalidParameterValue(
            f"{name} `{path}` belongs to the node's own system.", detail="LocalPath"
        )
    return clean
