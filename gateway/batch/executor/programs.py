"""Commands that need no shell, and the programs they name.

A shell would only look the program up and become it, which costs as much as a short command. So
what has nothing for a shell to do in it is executed as it is; GNU make does so, too. In doubt it is
left to the shell, which also says what is wrong with a program that cannot be executed.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# No character that any shell gives a meaning to, and no assignment in the first word.
_PLAIN: Final = re.compile(r" *[A-Za-z0-9_./][\w@%+,./:-]*(?: +[\w@%+=,./:-]+)* *", re.ASCII)
# What is part of some shell, save `true` and `false`, which are the same everywhere.
_OF_A_SHELL: Final = """
. alias bg bind break builtin caller case cd chdir command compgen complete compopt continue coproc
declare dirs disown do done echo elif else enable esac eval exec exit export fc fg fi for function
getopts hash help history if in jobs kill let local logout mapfile popd printf pushd pwd read
readarray readonly return select set shift shopt source suspend test then time times trap type
typeset ulimit umask unalias unset until wait while
"""
_KEPT: Final = frozenset(_OF_A_SHELL.split())


@dataclass(frozen=True, slots=True)
class Program:
    """What to execute. path: from the working folder, if it is relative."""

    path: str
    argv: tuple[str, ...]


def program_of(command: str, environment: Mapping[str, str], *, folder: str) -> Program | None:
    """The program that a command is to become in a folder; None if a shell is to see to it."""
    if not _PLAIN.fullmatch(command):
        return None
    argv = tuple(command.split())
    if argv[0] in _KEPT:
        return None
    path = _find(argv[0], environment.get("PATH", ""), folder=folder)
    return None if path is None else Program(path, argv)


def _find(name: str, search: str, *, folder: str) -> str | None:
    """Where a program is, as a shell looks for it; None if it is nowhere."""
    places = [name] if "/" in name else [f"{each or '.'}/{name}" for each in search.split(":")]
    for place in places:
        seen_from_here = os.path.join(folder, place)
        if os.access(seen_from_here, os.X_OK) and os.path.isfile(seen_from_here):
            return place
    return None
