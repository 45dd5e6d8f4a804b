"""Nothing of an attempt outlives it, however it was started and however it ends."""

import time
from collections.abc import Callable

import pytest

from gateway.batch.engines import Cause, Ended
from gateway.batch.engines.local import LocalEngine
from tests.batch.executor.executors import processes_that_say, sleeper, until
from tests.support.attempts import Watch, launch

KILL_S_MAX = 0.05
# a machine that is busy with other tests is allowed more
PATIENCE = 20

WAYS_TO_LEAVE: dict[str, Callable[[str], str]] = {
    "in the background": lambda command: f"{command} &",
    "in a session of its own": lambda command: f"setsid {command} &",
    "forked twice": lambda command: f"(setsid sh -c '{command} &' &)",
    "forked twice, streams and folder given up": lambda command: (
        f"(cd / && setsid sh -c '{command} &' </dev/null >/dev/null 2>&1 &)"
    ),
    "forked twice, everything given up": lambda command: (
        f"(cd / && env -i setsid sh -c '{command} &' </dev/null >/dev/null 2>&1 &)"
    ),
}
ways = pytest.mark.parametrize("leave", WAYS_TO_LEAVE.values(), ids=WAYS_TO_LEAVE.keys())


@ways
@pytest.mark.anyio
async def test_what_a_command_leaves_behind_is_dead_before_its_end_is_told(
    engine: LocalEngine, leave: Callable[[str], str]
) -> None:
    command = sleeper()
    attempt = launch(f"{leave(command)}\nwhile ! test -e go; do sleep 0.01; done")
    watch = Watch(engine)
    await engine.start([attempt])
    await watch.started([attempt])
    await until(lambda: len(processes_that_say(command)) >= 1)
    (engine.log_path(attempt.folder, "stdout").parent / "work" / "go").touch()
    [ended] = await watch.ended([attempt])
    assert processes_that_say(command) == []
    assert (ended.exit_code, ended.cause) == (0, None)


@ways
@pytest.mark.anyio
async def test_a_stop_kills_the_whole_tree_soon(
    engine: LocalEngine, leave: Callable[[str], str]
) -> None:
    command = sleeper()
    attempt = launch(f"{leave(command)}\ntouch left; exec sleep 1000")
    watch = Watch(engine)
    await engine.start([attempt])
    left = engine.log_path(attempt.folder, "stdout").parent / "work" / "left"
    await until(lambda: left.exists() and bool(processes_that_say(command)))
    begin = time.monotonic()
    await engine.stop([attempt.attempt_id])
    [ended] = await watch.ended([attempt])
    assert time.monotonic() - begin < KILL_S_MAX * PATIENCE
    assert processes_that_say(command) == []
    assert ended.cause is Cause.TERMINATED


@pytest.mark.anyio
async def test_a_shell_does_not_live_to_tell_that_its_command_was_killed(
    engine: LocalEngine,
) -> None:
    command = sleeper()
    attempts = [launch(f"{command}; true") for _ in range(4)]
    watch = Watch(engine)
    await engine.start(attempts)
    await until(lambda: len(processes_that_say(command)) >= 2 * len(attempts))
    await engine.stop([attempt.attempt_id for attempt in attempts])
    await watch.ended(attempts)
    logs = [engine.log_path(attempt.folder, "stderr") for attempt in attempts]
    assert [log.read_text() if log.exists() else "" for log in logs] == [""] * len(attempts)


@pytest.mark.anyio
async def test_a_command_that_takes_too_long_is_killed_with_its_tree(engine: LocalEngine) -> None:
    command = sleeper()
    attempt = launch(
        f"(setsid {command} &); trap '' TERM; while :; do sleep 0.1; done", timeout_s=1
    )
    begin = time.monotonic()
    await engine.start([attempt])
    [ended] = await Watch(engine).ended([attempt])
    assert 1 <= time.monotonic() - begin < 1 + KILL_S_MAX * PATIENCE
    assert (ended.exit_code, ended.cause) == (None, Cause.TIMEOUT)
    assert processes_that_say(command) == []


@pytest.mark.anyio
async def test_one_attempts_end_leaves_the_daemons_of_another_alone(engine: LocalEngine) -> None:
    command = sleeper()
    daemon = launch(f"(setsid sh -c '{command} &' &)\ntouch left; exec sleep 1000")
    watch = Watch(engine)
    await engine.start([daemon])
    left = engine.log_path(daemon.folder, "stdout").parent / "work" / "left"
    await until(lambda: left.exists() and bool(processes_that_say(command)))
    others = [launch("sleep 100 &") for _ in range(20)]
    await engine.start(others)
    await watch.ended(others)
    assert processes_that_say(command) != []
    await engine.stop([daemon.attempt_id])
    await watch.ended([daemon])
    assert processes_that_say(command) == []


@pytest.mark.anyio
@pytest.mark.parametrize("isolation", ["none"])
async def test_two_thousand_commands_at_once_all_end_well(engine: LocalEngine) -> None:
    attempts = [launch("true") for _ in range(2_000)]
    watch = Watch(engine)
    for begin in range(0, len(attempts), 500):
        await engine.start(attempts[begin : begin + 500])
    ended = await watch.ended(attempts)
    assert {each.cause for each in ended} == {None}
    assert sum(isinstance(each, Ended) for each in watch.heard) == 2_000
