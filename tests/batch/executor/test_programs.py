"""Commands that need no shell: what is taken for one, and that nobody can tell the difference."""

import re
import subprocess
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor.isolation import PATH, SHELL
from gateway.batch.executor.programs import program_of
from tests.batch.executor.test_commands import run

HERE = {"PATH": PATH}


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("true", ("true",)),
        ("  env   a=1 -u B ", ("env", "a=1", "-u", "B")),
        ("ls x,y %d +1 a:b@c ./d/e", ("ls", "x,y", "%d", "+1", "a:b@c", "./d/e")),
    ],
)
def test_a_plain_command_is_a_program_of_the_system(command: str, argv: tuple[str, ...]) -> None:
    assert program_of(command, HERE) == argv


@pytest.mark.parametrize(
    "command",
    [
        *("", " ", "A=1 ls", "A=1", "-x", "@ls", "~/ls", "ls\n", "ls\nls", "l\ts", "/bin/ls"),
        *("./ls", "../bin/ls", "ls;", "ls|ls", "ls&", "ls>x", "ls<x", "(ls)", "{ ls; }", "! ls"),
        *("ls $HOME", "ls `x`", "ls *", "ls ?", "ls [a]", "ls 'a'", 'ls "a"', "ls \\a", "ls #a"),
        *("ls ~", "ls {a,b}", "ls ^a", "ls !a", "lß", "true --help", "false --version"),
        *("exit 3", "cd /", "echo a", ". ls", ": ", "test -f data", "exec ls", "kill 1", "wait"),
    ],
)
def test_in_doubt_it_is_left_to_the_shell(command: str) -> None:
    assert program_of(command, HERE) == ()


@pytest.mark.parametrize(
    "more", [{"PATH": f".:{PATH}"}, {"PATH": ""}, {"IFS": " "}, {"OPTIND": "1"}, {"PPID": "1"}]
)
def test_what_a_shell_would_see_to_is_left_to_it(more: Mapping[str, str]) -> None:
    assert program_of("ls", {**HERE, **more}) == ()


@given(st.text("abcZ019_@%+=:,./- ", max_size=40))
def test_a_shell_would_have_made_the_same_words(words: str) -> None:
    _, *arguments = program_of(f"ls x {words}", HERE)
    script = f"set -- x {words}\nprintf '%s\\n' \"$@\""
    by_shell = subprocess.run([*SHELL, script], capture_output=True, text=True, check=True).stdout
    assert arguments == by_shell.splitlines()


@pytest.mark.anyio
async def test_nobody_can_tell_whether_there_was_a_shell(engine: LocalEngine) -> None:
    """The newline at the end is something that only a shell understands."""
    commands = [
        *("true", "false", "cat nowhere", "no-such-program", "/etc/passwd", "/", "./gone"),
        *("true --help", "false --version", "/proc/self/exe -c true"),
        *("ls -a -1", "pwd -P", "uname -s", "cat /proc/self/environ", "tr a b", "sleep x"),
        *("env -i A=1 /bin/sh -c exit", "/usr/bin/env /bin/false"),
    ]
    for command in commands:
        ended, *said = await run(engine, command)
        by_shell, *said_by_shell = await run(engine, f"{command}\n")
        assert (ended.exit_code, ended.cause) == (by_shell.exit_code, by_shell.cause), command
        assert [_in_order(each) for each in said] == [_in_order(each) for each in said_by_shell]


def _in_order(text: str) -> list[str]:
    """The variables of an environment in order, without the number that an attempt has."""
    return sorted(re.sub(r"/\d+/1/", "/N/1/", text).split("\0"))
