"""What a command sees, what it may do, and how its end is told."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.batch.engines import Cause, Ended
from gateway.batch.engines.local import LocalEngine
from tests.batch.executor.executors import local_engine
from tests.support.attempts import Watch, launch

SECRET = "kept-from-every-command"


async def run(
    engine: LocalEngine, command: str, *, environment: Mapping[str, str] | None = None
) -> tuple[Ended, str, str]:
    """The outcome of a command, and what it wrote to stdout and stderr."""
    attempt = launch(command, environment=environment)
    await engine.start([attempt])
    [ended] = await Watch(engine).ended([attempt])
    streams = (engine.log_path(attempt.folder, stream) for stream in ("stdout", "stderr"))
    out, err = (path.read_text() for path in streams)
    return ended, out, err


def variables(block: str) -> Mapping[str, str]:
    return dict(entry.split("=", 1) for entry in block.split("\0") if entry)


@pytest.mark.anyio
async def test_the_environment_is_the_launchs_and_three_more(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCS_GATEWAY_ROOT_SECRET_KEY", SECRET)
    given = {"BATCH_JOB_ID": "job-1", "ODD": "a 'b' \"c\"\n$(id)\\", "EMPTY": ""}
    ended, out, _ = await run(engine, "exec cat /proc/self/environ", environment=given)
    assert ended.exit_code == 0
    seen = dict(variables(out))
    home = seen.pop("HOME")
    assert seen.pop("PWD", home) == home  # what the shell itself adds
    assert seen == {**given, "PATH": seen["PATH"], "LANG": "C.UTF-8"}


@pytest.mark.anyio
@pytest.mark.parametrize("more", [{}, {"a.b": "not for shells"}])
async def test_home_path_and_language_are_the_launchs_if_it_sets_them(
    engine: LocalEngine, more: Mapping[str, str]
) -> None:
    own = {"HOME": "/nowhere", "PATH": "/tools:/bin:/usr/bin", "LANG": "C", **more}
    command = "cat /proc/self/environ; echo told >&2; touch here; exit 3"
    ended, out, err = await run(engine, command, environment=own)
    assert (ended.cause, ended.exit_code, err) == (Cause.USER_EXIT, 3, "told\n")
    seen = variables(out)
    assert {name: seen.get(name) for name in own if name != "a.b"} == {
        name: value for name, value in own.items() if name != "a.b"
    }


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["a.b-c", "UID", "PPID", "SHELLOPTS", "BASH_ENV", "_", "1", "IFS"])
async def test_a_variable_with_a_name_that_a_shell_keeps_to_itself_harms_no_command(
    engine: LocalEngine, name: str
) -> None:
    given = {name: "x y", "BESIDE": "kept"}
    ended, out, err = await run(engine, "exec cat /proc/self/environ", environment=given)
    assert (ended.exit_code, err) == (0, "")
    assert variables(out)["BESIDE"] == "kept"


@pytest.mark.anyio
async def test_a_command_begins_in_its_empty_home_and_can_write_there(engine: LocalEngine) -> None:
    _, out, err = await run(engine, 'pwd; cd "$HOME" && pwd && ls -A && echo x > file && cat file')
    first, second, *rest = out.splitlines()
    assert (first, rest, err) == (second, ["x"], "")


@pytest.mark.anyio
async def test_a_command_can_open_its_own_streams_and_run_python(engine: LocalEngine) -> None:
    command = "echo one > /dev/stdout; echo two > /dev/stderr; /usr/bin/python3 -c 'print(6 * 7)'"
    ended, out, err = await run(engine, command)
    assert (ended.cause, out, err) == (None, "one\n42\n", "two\n")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("command", "code", "cause"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, Cause.USER_EXIT),
        ("exit 255", 255, Cause.USER_EXIT),
        ("no-such-program", 127, Cause.USER_EXIT),
        ("kill -KILL $$", 137, Cause.SIGNAL),
        ("sh -c 'kill -SEGV $$'; exit $?", 139, Cause.SIGNAL),
    ],
)
async def test_an_end_is_told_with_code_and_cause(
    engine: LocalEngine, command: str, code: int, cause: Cause | None
) -> None:
    ended, _, _ = await run(engine, command)
    assert (ended.exit_code, ended.cause) == (code, cause)


@pytest.mark.anyio
async def test_long_output_is_kept_to_the_last_byte(engine: LocalEngine) -> None:
    attempt = launch("head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2")
    await engine.start([attempt])
    await Watch(engine).ended([attempt])
    sizes = [engine.log_path(attempt.folder, each).stat().st_size for each in ("stdout", "stderr")]
    assert sizes == [5_000_000, 5_000_000]


@pytest.mark.anyio
async def test_a_broken_pipe_kills_a_command_as_it_does_in_a_shell(engine: LocalEngine) -> None:
    ended, out, err = await run(engine, "yes | head -n 1")
    assert (ended.exit_code, out, err) == (0, "y\n", "")


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["sandbox", "uid"])
async def test_an_isolated_command_has_no_privilege_and_cannot_get_one(
    engine: LocalEngine,
) -> None:
    _, out, _ = await run(engine, "id -u; id -g; grep -E '^(Cap|NoNew)' /proc/self/status")
    uid, gid, *status = out.splitlines()
    facts = dict(line.split(":\t") for line in status)
    assert (uid, gid, facts.pop("NoNewPrivs")) == ("65534", "65534", "1")
    assert {int(mask, 16) for mask in facts.values()} == {0}


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["sandbox", "uid"])
async def test_an_isolated_command_cannot_reach_the_gateways_files(
    engine: LocalEngine, root: Path
) -> None:
    (root / "secret").write_text(SECRET)
    (root / "secret").chmod(0o600)
    names = [root / "secret", root / "journal", root / "executor.sock", "/etc/shadow"]
    command = "".join(f"test -r {name} && echo can read; " for name in names)
    command += "touch /usr/local/x && echo can write; ls /root && echo can look; "
    command += f"ls {root} && echo can list; true"
    ended, out, _ = await run(engine, command)
    assert (ended.exit_code, out) == (0, "")


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["sandbox"])
async def test_a_sandboxed_command_sees_neither_other_processes_nor_other_files(
    engine: LocalEngine, root: Path
) -> None:
    command = f"ls -d {root} /home /root /opt; ls /proc | grep -c '^[0-9]'; ls /tmp; pwd"
    _, out, _ = await run(engine, command)
    processes, work = out.splitlines()
    assert (int(processes) <= 6, work) == (True, "/work")


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["sandbox", "uid"])
async def test_variables_for_the_linker_do_not_reach_the_programs_that_isolate(
    engine: LocalEngine,
) -> None:
    command = "exec /usr/bin/env -u LD_DEBUG -u LD_DEBUG_OUTPUT true"
    attempt = launch(command, environment={"LD_DEBUG": "files"})
    await engine.start([attempt])
    await Watch(engine).ended([attempt])
    traced = engine.log_path(attempt.folder, "stderr").read_text()
    assert "sh" in traced
    assert "bwrap" not in traced
    assert "setpriv" not in traced


@pytest.mark.anyio
async def test_a_command_finds_the_inputs_that_were_put_there_for_it(
    engine: LocalEngine, root: Path
) -> None:
    attempt = launch("cat inputs/a && rm inputs/a && echo gone")
    inputs = root / "attempts" / attempt.folder / "work" / "inputs"
    inputs.mkdir(parents=True)
    (inputs / "a").write_text("given\n")
    await engine.start([attempt])
    await Watch(engine).ended([attempt])
    assert engine.log_path(attempt.folder, "stdout").read_text() == "given\ngone\n"


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
@pytest.mark.parametrize(
    "folder",
    ["..", "../x", "a/../../x", "/etc/x", "a//b", "", "a/work/b", "stdout", "a\0b", ".hidden"],
)
async def test_a_folder_that_leads_elsewhere_is_never_started_in(
    engine: LocalEngine, root: Path, folder: str
) -> None:
    hostile = replace(launch("touch ran"), folder=folder)
    before = sorted(path.name for path in root.parent.iterdir())
    await engine.start([hostile])
    [ended] = await Watch(engine).ended([hostile])
    assert ended.cause is Cause.INFRA_LOST
    assert "folder" in ended.detail
    assert not list(root.parent.rglob("ran"))
    assert sorted(path.name for path in root.parent.iterdir()) == before


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none", "sandbox"])
async def test_an_environment_no_process_can_have_ends_the_attempt_unstarted(
    engine: LocalEngine,
) -> None:
    watch, attempts = (
        Watch(engine),
        [launch("true", environment={name: "1"}) for name in ("", "A=B", "A\0")],
    )
    await engine.start(attempts)
    ended = await watch.ended(attempts)
    assert [each.cause for each in ended] == [Cause.INFRA_LOST] * 3


@pytest.mark.anyio
async def test_a_folder_with_a_very_long_path_serves_too(root: Path) -> None:
    deep = root.parent / ("d" * 100) / ("e" * 100) / "engine"
    async with local_engine(deep, isolation="none") as engine:
        ended, out, _ = await run(engine, "echo deep")
    assert (ended.exit_code, out) == (0, "deep\n")
