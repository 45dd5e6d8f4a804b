"""Commands that need no shell: they name a program and its arguments.

A shell would only look the program up and become it, which costs as much as a short command. So
what has nothing for a shell to do in it is executed as it is; GNU make does so, too. In doubt it is
left to the shell, which also says what is wrong with a program that cannot be executed.

Only programs of the system are meant, by their names alone. Why: they are looked up before all else
that waits, and a place of the caller's choice may be a share that does not answer.
"""

import re
from collections.abc import Mapping
from typing import Final

from gateway.batch.executor.isolation import PATH

# No character that any shell gives a meaning to, no assignment in front, and no path.
_PLAIN: Final = re.compile(r" *[A-Za-z0-9_][\w@%+,.:-]*(?: +[\w@%+=,./:-]+)* *", re.ASCII)
_OF_A_SHELL: Final = """
. alias bg bind break builtin caller case cd chdir command compgen complete compopt continue coproc
declare dirs disown do done echo elif else enable esac eval exec exit export fc fg fi for function
getopts hash help history if in jobs kill let local logout mapfile popd printf pushd pwd read
readarray readonly return select set shift shopt source suspend test then time times trap type
typeset ulimit umask unalias unset until wait while
"""
_KEPT: Final = frozenset(_OF_A_SHELL.split())
_SAME_ALONE: Final = frozenset({"true", "false"})  # part of a shell, and of the system
# What a shell reads, sets anew or refuses when it begins.
_CHANGED_BY_A_SHELL: Final = frozenset({"IFS", "OPTIND", "PPID", "PS1", "PS2", "PS4", "OLDPWD"})


def program_of(command: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The name and the arguments of the program that a command is to become, if there is one.

    () if a shell is to see to it.
    """
    if not _PLAIN.fullmatch(command) or environment.get("PATH") != PATH:
        return ()
    argv = tuple(command.split())
    if argv[0] in _KEPT or (argv[0] in _SAME_ALONE and len(argv) > 1):
        return ()
    return argv if _CHANGED_BY_A_SHELL.isdisjoint(environment) else ()
