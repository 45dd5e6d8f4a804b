"""Commands that need no shell: what is taken for one, and that nobody can tell the difference."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor.isolation import PATH, SHELL
from gateway.batch.executor.programs import program_of
from tests.batch.executor.test_commands import run

SHOWS_ITS_WORDS = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program, `tool`, that shows its words, and a file that is none, `data`."""
    (tmp_path / "tool").write_text(SHOWS_ITS_WORDS)
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "data").write_text("")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("command", "path", "argv"),
    [
        ("true", "/usr/bin/true", ("true",)),
        ("  true  --version ", "/usr/bin/true", ("true", "--version")),
        ("/usr/bin/env a=1 -u B", "/usr/bin/env", ("/usr/bin/env", "a=1", "-u", "B")),
        ("./tool x,y %d +1 a:b@c", "./tool", ("./tool", "x,y", "%d", "+1", "a:b@c")),
    ],
)
def test_a_plain_command_is_its_program(
    folder: Path, command: str, path: str, argv: tuple[str, ...]
) -> None:
    program = program_of(command, {"PATH": PATH}, folder=str(folder))
    assert program is not None
    assert (program.path, program.argv) == (path, argv)


@pytest.mark.parametrize("name", ["tool", "./tool"])
def test_a_relative_place_is_looked_at_from_the_working_folder(folder: Path, name: str) -> None:
    for search in ("", ".", f"/nowhere::{folder}"):
        program = program_of(name, {"PATH": search}, folder=str(folder))
        assert program is not None
        assert program.path == "./tool"


@pytest.mark.parametrize(
    "command",
    [
        *("", " ", "A=1 true", "A=1", "-x", "@true", "~/tool", "true\n", "true\ntrue", "tru\te"),
        *("true;", "true|true", "true&", "true>x", "true<x", "(true)", "{ true; }", "! true"),
        *("true $HOME", "true `x`", "true *", "true ?", "true [a]", "true 'a'", 'true "a"'),
        *("true \\a", "true #a", "true ~", "true {a,b}", "true ^a", "true !a", "trüe"),
        *("exit 3", "cd /", "echo a", ". ./tool", ": ", "test -f data", "exec true", "kill 1"),
        *("nowhere", "./nowhere", "./data", "./folder", "/etc/passwd", "data"),
    ],
)
def test_in_doubt_it_is_left_to_the_shell(folder: Path, command: str) -> None:
    assert program_of(command, {"PATH": f"{PATH}:."}, folder=str(folder)) is None


@given(st.text("abcZ019_@%+=:,./- ", max_size=40))
def test_a_shell_would_have_made_the_same_words(words: str) -> None:
    program = program_of(f"/usr/bin/printf x {words}", {}, folder="/")
    assert program is not None
    script = f"set -- x {words}\nprintf '%s\\n' \"$@\""
    by_shell = subprocess.run([*SHELL, script], capture_output=True, text=True, check=True).stdout
    assert program.argv[1:] == tuple(by_shell.splitlines())


@pytest.mark.parametrize("name", ["alias", "ulimit", "wait"])
def test_what_is_part_of_the_shell_stays_there(folder: Path, name: str) -> None:
    (folder / name).write_text(SHOWS_ITS_WORDS)
    (folder / name).chmod(0o755)
    assert program_of(name, {"PATH": str(folder)}, folder=str(folder)) is None


@pytest.mark.anyio
async def test_nobody_can_tell_whether_there_was_a_shell(engine: LocalEngine) -> None:
    """The newline at the end is something that only a shell understands."""
    commands = [
        *("true", "false", "cat nowhere", "no-such-program", "/etc/passwd", "/", "./gone"),
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
