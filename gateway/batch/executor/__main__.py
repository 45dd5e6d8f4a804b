"""`python -m gateway.batch.executor`: start the executor, or sweep up after a dead one."""

import argparse
import fcntl
import logging
import os
import signal
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from gateway.batch.executor import processes
from gateway.batch.executor.containers import look_for_containers
from gateway.batch.executor.control_groups import control_groups_of, open_control_groups
from gateway.batch.executor.folders import ATTEMPTS
from gateway.batch.executor.frames import EXIT_FAILED, EXIT_REFUSED
from gateway.batch.executor.group_trees import key_of
from gateway.batch.executor.isolation import PATH, SHELL, IsolationUnavailable, isolation_named
from gateway.batch.executor.journal import Journal
from gateway.batch.executor.ledger import Ledger
from gateway.batch.executor.recovery import recover
from gateway.batch.executor.runner import Runner
from gateway.batch.executor.server import Server
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.clock import now
from gateway.collector import spare_what_stays

log = logging.getLogger("executor")

LOCK_S_MAX: Final = 3.0
LOCK_PAUSE_S: Final = 0.02
EXIT_ALREADY_RUNNING: Final = 3
EXIT_READY: Final = 0
RUNNING: Final = "another executor holds this folder"
FOLDER_MODE: Final = 0o700
# Others may pass through, not look: under `uid` the command's user must reach its work folder.
FOLDER_MODE_PASSABLE: Final = 0o711


def main() -> int:
    """Read the arguments and do it.

    Exit code 3: another executor holds the folder; 4: it cannot serve as asked; 5: not now.
    """
    parser = argparse.ArgumentParser(prog="python -m gateway.batch.executor")
    parser.add_argument("--root", type=Path, required=True, help="the executor's own folder")
    parser.add_argument("--isolation", default="", help="sandbox, uid or none; default the best")
    parser.add_argument("--linger-s", type=float, default=60.0, help="how long to stay unused")
    parser.add_argument("--detach", action="store_true", help="return once it serves, leave it be")
    parser.add_argument("--sweep", action="store_true", help="only kill what a dead one left")
    parser.add_argument("--groups", default="", help="the key of its control groups, for --sweep")
    options = parser.parse_args()
    root = options.root.absolute()
    if options.sweep:
        return _sweep(root, key=options.groups)
    root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if options.detach and (code := _detach(root)) is not None:
        return code
    _log_to_stderr()
    lock = _lock(root)
    if lock is None:
        _report(EXIT_ALREADY_RUNNING, RUNNING)
        return EXIT_ALREADY_RUNNING
    try:
        _serve(root, lock=lock, isolation=options.isolation, linger_s=options.linger_s)
    except IsolationUnavailable as error:
        return _give_up(EXIT_REFUSED, str(error))
    except OSError as error:
        return _give_up(EXIT_FAILED, str(error))
    return 0


def _give_up(code: int, why: str) -> int:
    """Say why nothing is served; return the exit code for it."""
    log.error("not_served reason=%s", why)
    _report(code, why)
    return code


def _sweep(root: Path, *, key: str) -> int:
    """Kill what a dead executor left. A living one, or the next one, needs no help.

    key: of its control groups. Its folder may be gone, or another may be in its place.
    """
    with suppress(FileNotFoundError):  # the folder can go at any moment
        if not key or key_of(root) == key:
            if _lock(root) is not None:
                _log_to_stderr()
                groups = open_control_groups(root)
                lost = recover(_open_ledger(root), root, groups=groups, clock=now)
                log.warning("swept attempts_lost=%d", lost)
            return 0
    groups = control_groups_of(key)
    while key and groups.sweep():
        time.sleep(LOCK_PAUSE_S)
    return 0


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)


_launcher: list[int] = []


def _report(code: int, why: str = "") -> None:
    """Tell the process that started us, if it waits, how it is to end and what to say."""
    while _launcher:
        pipe = _launcher.pop()
        with suppress(OSError):
            os.write(pipe, bytes([code]) + os.fsencode(why))
        os.close(pipe)


def _detach(root: Path) -> int | None:
    """Go on as a process of its own session. In the first process: wait until it serves.

    Returns None in the executor, the exit code in the process that was started.
    """
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _launcher.append(writing)
        os.setsid()
        logs = os.open(root / "executor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((null, 0), (logs, 1), (logs, 2)):
            os.dup2(ours, theirs)
        os.close(logs)
        os.close(null)
        return None
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        message = pipe.read()
    if not message:  # it died before it could say why
        message = bytes([EXIT_FAILED]) + b"it ended; see executor.log"
    code, why = message[0], message[1:]
    if why:
        sys.stderr.write(why.decode(errors="replace") + "\n")
    return code


def _lock(root: Path) -> int | None:
    """Take the folder's lock, waiting a little for one that is ending; None if it stays taken."""
    lock = os.open(root / "executor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at = time.monotonic() + LOCK_S_MAX
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                os.close(lock)
                return None
            time.sleep(LOCK_PAUSE_S)
        else:
            return lock


def _open_ledger(root: Path) -> Ledger:
    journal = Journal(root / "journal")
    if journal.dropped_bytes:
        log.warning("journal_torn dropped_bytes=%d", journal.dropped_bytes)
    return Ledger(journal, boot_id=processes.boot_id(), clock=now)


def _serve(root: Path, *, lock: int, isolation: str, linger_s: float) -> None:
    """Serve until there is nothing to stay for. Raises IsolationUnavailable or OSError.

    lock: the open file of the folder's lock. It is held until the last spawn server is gone, too.
    """
    os.umask(0o022)
    processes.become_subreaper()
    ledger = _open_ledger(root)
    groups = open_control_groups(root)
    lost = recover(ledger, root, groups=groups, clock=now)
    if lost:
        log.warning("attempts_lost count=%d", lost)
    _make_passable(root)
    keeper = Keeper(root, key=groups.key)
    containers, no_containers = look_for_containers(root)
    found = isolation_named(isolation, root=root)
    nothing_runs = False
    try:
        groups.claim()
        spare_what_stays()
        # From here on: they are where this process is now.
        with closing(SpawnPool(keep=[lock])) as pool:
            server = Server(
                root,
                isolation=found,
                asked_isolation=isolation,
                ledger=ledger,
                pool=pool,
                groups=groups,
                containers=containers,
                no_containers=no_containers,
                linger_s=linger_s,
                clock=now,
                on_turn=keeper.look,
            )
            with closing(server):
                server.watch_signals()
                for ability, why in groups.missing.items():
                    log.warning("not_limited what=%s reason=%s", ability.value, why)
                _report(EXIT_READY)
                log.info("serving root=%s", root)
                try:
                    server.run()
                except BaseException:
                    with suppress(OSError):
                        server.give_up()
                    raise
                nothing_runs = server.is_idle
                ledger.close()
    finally:
        groups.close()  # before the keeper goes, who does it if we are killed meanwhile
        if nothing_runs:
            keeper.dismiss()  # else it sweeps as soon as we are gone


def _make_passable(root: Path) -> None:
    """Let another user pass through to the work folders; the socket and the journal stay shut."""
    os.chmod(root, FOLDER_MODE_PASSABLE)
    (root / ATTEMPTS).mkdir(mode=FOLDER_MODE_PASSABLE, exist_ok=True)


class Keeper:
    """A waiting shell that sweeps up if we die: its pipe ends when we do.

    Why: a process can ask to die with its parent, but not ask that for its children; and without
    isolation the asking itself would cost as much as the command.
    """

    def __init__(self, root: Path, *, key: str) -> None:
        """key: of the control groups, which are to be found when the folder is gone."""
        self._root = root
        self._key = key
        self._pid = 0
        self._pipe = -1

    def look(self, runner: Runner) -> None:
        """Start the keeper, or another if it is gone."""
        if self._pid not in runner.helpers:
            self._start()
            runner.helpers.add(self._pid)

    def _start(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
        reading, self._pipe = os.pipe()
        sweep = [sys.executable, "-m", "gateway.batch.executor", "--root", str(self._root)]
        sweep += ["--sweep", "--groups", self._key]
        self._pid = os.posix_spawn(
            SHELL[0],
            [*SHELL, 'read -r word || exec "$@"', "executor-keeper", *sweep],
            {"PATH": PATH, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)],
            setsid=True,
            setsigdef=[signal.SIGPIPE],
        )
        os.close(reading)

    def dismiss(self) -> None:
        """Tell the keeper that nothing is left to sweep."""
        if self._pipe >= 0:
            with suppress(OSError):
                os.write(self._pipe, b"done\n")
            os.close(self._pipe)


if __name__ == "__main__":
    sys.exit(main())
