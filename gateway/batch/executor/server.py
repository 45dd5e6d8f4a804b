"""The server: one gateway at a time on a socket, and the loop that turns.

Each turn takes in what the gateway said and what spawn servers told, makes all of it durable with
one write, and only then has commands spawned, and tells. A burst costs one write, not one per
attempt. Where many attempts run it rests between turns, so that there are bursts.
"""

import logging
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.batch.engines import Ability, Cause, Ended, Started
from gateway.batch.executor import frames
from gateway.batch.executor.abilities import missing_abilities
from gateway.batch.executor.containers import Containers
from gateway.batch.executor.control_groups import ControlGroups
from gateway.batch.executor.folders import NO_ROOM, SOCKET
from gateway.batch.executor.isolation import (
    Isolation,
    IsolationUnavailable,
    isolation_named,
    with_folders,
)
from gateway.batch.executor.ledger import Committed, Ledger, lost
from gateway.batch.executor.runner import Runner
from gateway.batch.executor.running import Running
from gateway.batch.executor.spawn_pool import SpawnPool
from gateway.clock import Clock

log = logging.getLogger("executor")

SPAWNS_PER_TURN: Final = 16
RECEIVE_BYTES: Final = 262_144
TURN_S_MAX: Final = 0.5
RETRY_S: Final = 1.0
KILL_S_MAX: Final = 10.0
FIRST_LINE_S: Final = 10.0  # whoever started us has this long to connect
FACTS_PER_FRAME: Final = 1_000
RESTS_FROM: Final = 8
REST_OF_RUN: Final = 0.3
REST_S_MAX: Final = 0.05
"""Where so many attempts run, the loop rests between two turns for this part of the time that one
takes, unless the gateway says something. Whoever is told of several ends at once has little more to
do than for one, and so have we.
"""
STARTED_S_MAX: Final = 0.01
"""How late a start is told, at most, but for a rest: of a command that ends sooner both are one
message, and one change of its rows.
"""


class Connection:
    """The line to the gateway: whole frames in, whole frames out, never waiting."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self.socket = peer
        self.greeted = False
        self.watched_for_writing = False
        self._unframer = frames.Unframer()
        self._out = bytearray()

    @property
    def wants_writing(self) -> bool:
        """Whether something is left to send."""
        return bool(self._out)

    def receive(self) -> list[frames.FromGateway] | None:
        """What has arrived; None at the end. Raises FrameError or OSError."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return None
        return [frames.decode_from_gateway(body) for body in self._unframer.feed(data)]

    def send(self, frame: frames.Frame) -> None:
        """Send a frame, as much as goes now. Raises OSError."""
        self._out += frames.encode(frame)
        self.flush()

    def flush(self) -> None:
        """Send what is left, as much as goes now. Raises OSError."""
        with suppress(BlockingIOError):
            while self._out:
                sent = self.socket.send(self._out)
                del self._out[:sent]


def listen(root: Path) -> socket.socket:
    """Listen on `executor.sock` in a folder, for this user only. Raises OSError.

    Why the working folder changes: a socket's path may have 107 bytes, a data folder's more.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.chdir(root)
    with suppress(FileNotFoundError):
        os.unlink(SOCKET)
    old_mask = os.umask(0o177)
    try:
        listener.bind(SOCKET)
    finally:
        os.umask(old_mask)
        os.chdir("/")
    listener.listen()
    listener.setblocking(False)
    return listener


class Server:
    """The executor's one loop."""

    def __init__(
        self,
        root: Path,
        *,
        isolation: Isolation,
        asked_isolation: str,
        ledger: Ledger,
        pool: SpawnPool,
        groups: ControlGroups,
        containers: Containers | None = None,
        no_containers: str = "",
        linger_s: float,
        clock: Clock,
        on_turn: Callable[[Runner], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """asked_isolation: the name that led to `isolation`. on_turn: called at every turn.

        no_containers: why there are no `containers`.
        """
        self._root = root
        self._ledger = ledger
        self._linger_s = linger_s
        self._clock = clock
        self._on_turn = on_turn
        self._monotonic = monotonic
        self._asked_isolation = asked_isolation
        self._asked_folders: tuple[str, ...] = ()
        self._runner = Runner(
            root,
            isolation=isolation,
            pool=pool,
            groups=groups,
            containers=containers,
            clock=clock,
            monotonic=monotonic,
        )
        for ended, folder in ledger.left():
            self._runner.remember(ended, folder=folder)
        self._no_containers = "" if containers is not None else no_containers
        self._line: Connection | None = None
        self._untold: dict[str, tuple[float, Started]] = {}  # each with the moment to tell it at
        self._idle_since = monotonic() + FIRST_LINE_S
        self._retry_at = 0.0
        self._root_key = _folder_key(root)
        self._selector = selectors.DefaultSelector()
        self._listener = listen(root)
        self._wake, wake = socket.socketpair()
        self._wake_sender = wake
        for end in (self._wake, wake):
            end.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        for line in self._runner.lines:
            self._selector.register(line, selectors.EVENT_READ)

    def watch_signals(self) -> None:
        """Wake the loop when a child ends; obey SIGTERM, ignore SIGINT and SIGHUP.

        Why SIGTERM does not end it at once: whoever stops the gateway may signal its whole group,
        and a drain must not kill jobs. It means "end as soon as nothing runs and nobody speaks".
        """
        signal.set_wakeup_fd(self._wake_sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._leave_soon())

    def _leave_soon(self) -> None:
        self._linger_s = 0

    def run(self) -> None:
        """Serve until there is nothing to stay for."""
        while self._root_is_there():
            self._rest()
            for key, mask in self._selector.select(self._pause_s()):
                self._attend(key.fileobj, mask)
            self._on_turn(self._runner)
            self._runner.expire()
            self._runner.make_room()
            heard = self._runner.hear()
            for ended in (*heard.ended, *self._runner.reap()):
                self._ledger.end(ended)
            self._act_on(self._commit(), heard.running)
            if self._may_leave():
                return
        log.warning("folder_gone root=%s", self._root)
        self._kill_all()

    def give_up(self) -> None:
        """Leave nothing running, for this process cannot go on. Raises OSError."""
        self._runner.give_up()

    @property
    def is_idle(self) -> bool:
        """Whether no attempt waits or has a process."""
        return self._runner.is_idle

    def close(self) -> None:
        """Stop listening. Whoever holds the lock may do so."""
        self._drop_line()
        self._listener.close()
        self._selector.close()
        with suppress(OSError):
            os.unlink(self._root / SOCKET)

    def _rest(self) -> None:
        """Let facts come together where many are to be expected; the gateway need not wait."""
        line, runner = self._line, self._runner
        if line is None or line.wants_writing or runner.is_pressed:
            return
        pause_s = rest_s(running=len(runner.running), mean_run_s=runner.mean_run_s)
        if runner.next_deadline is not None:
            pause_s = min(pause_s, runner.next_deadline - self._monotonic())
        if pause_s > 0:
            ear = select.poll()
            ear.register(line.socket, select.POLLIN)
            ear.poll(1_000 * pause_s)

    def _pause_s(self) -> float:
        """How long the loop may sleep; a waiting launch allows none."""
        if self._runner.has_waiting:
            return 0
        now = self._monotonic()
        moments = [now + TURN_S_MAX]
        if self._ledger.is_dirty:
            moments.append(self._retry_at)
        if self._runner.next_deadline is not None:
            moments.append(self._runner.next_deadline)
        if self._untold:
            moments.append(next(iter(self._untold.values()))[0])
        return max(0.0, min(moments) - now)

    def _attend(self, source: object, mask: int) -> None:
        if source is self._listener:
            self._accept()
        elif source is self._wake:
            with suppress(BlockingIOError):
                self._wake.recv(4_096)
        elif self._line is not None and source is self._line.socket:
            self._attend_line(self._line, mask)

    def _accept(self) -> None:
        """Take the newest gateway; an older one is gone, or should be."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            log.warning("not_accepted error=%s", error)
            return
        if self._line is not None:
            with suppress(OSError):
                self._line.send(frames.Refused(reason="another gateway has come"))
            self._drop_line()
        self._line = Connection(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _attend_line(self, line: Connection, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                line.flush()
            heard = line.receive() if mask & selectors.EVENT_READ else []
            for frame in heard or []:
                self._obey(line, frame)
        except (frames.FrameError, OSError) as error:
            log.warning("line_lost error=%s", error)
            heard = None
        if heard is None:
            self._drop_line()
        else:
            self._watch_writing()

    def _drop_line(self) -> None:
        if self._line is not None:
            self._selector.unregister(self._line.socket)
            self._line.socket.close()
            self._line = None

    def _watch_writing(self) -> None:
        if self._line is not None and self._line.wants_writing != self._line.watched_for_writing:
            self._line.watched_for_writing = self._line.wants_writing
            writing = selectors.EVENT_WRITE if self._line.wants_writing else 0
            self._selector.modify(self._line.socket, selectors.EVENT_READ | writing)

    def _obey(self, line: Connection, frame: frames.FromGateway) -> None:
        if not line.greeted and not isinstance(frame, frames.Hello):
            raise frames.FrameError("the first frame is not Hello")
        match frame:
            case frames.Hello():
                self._greet(line, frame)
            case frames.Start():
                self._tell_standing([launch.attempt_id for launch in frame.launches])
                self._ledger.begin(frame.launches)
            case frames.Stop():
                self._stop(frame.attempt_ids)
            case frames.Acknowledge():
                self._ledger.acknowledge(frame.attempt_ids)
                self._runner.acknowledge(frame.attempt_ids)
                if frame.loss:
                    self._ledger.acknowledge_loss()
            case frames.Reconcile():
                self._reconcile(frame.attempt_ids)

    def _greet(self, line: Connection, hello: frames.Hello) -> None:
        """Answer Hello, then tell all that runs and every outcome not acknowledged."""
        if hello.protocol != frames.PROTOCOL:
            self._leave_soon()  # the other side is newer or older; its own executor comes next
            self._refuse(line, f"this executor speaks protocol {frames.PROTOCOL}")
        asked = (hello.isolation, hello.folders)
        if asked != (self._asked_isolation, self._asked_folders):
            try:
                isolation = isolation_named(hello.isolation, root=self._root)
                isolation = with_folders(isolation, hello.folders, root=self._root)
            except IsolationUnavailable as error:
                self._refuse(line, str(error))
            self._runner.isolation = isolation
            self._asked_isolation, self._asked_folders = asked
        line.greeted = True
        line.send(self._welcome())
        started = [each.started for each in self._runner.running.values() if each.started]
        self._tell(started, list(self._ledger.outcomes.values()))

    def _welcome(self) -> frames.Welcome:
        """Who we are and what we can do here."""
        missing = missing_abilities(
            self._runner.isolation,
            groups=self._runner.groups,
            no_containers=self._no_containers,
        )
        return frames.Welcome(
            pid=os.getpid(),
            isolation=self._runner.isolation.name,
            abilities=sorted(each.value for each in Ability if each not in missing),
            missing={each.value: why for each, why in missing.items()},
            attempts_lost=self._ledger.lost_with_an_executor,
        )

    def _refuse(self, line: Connection, reason: str) -> None:
        line.send(frames.Refused(reason=reason))
        raise frames.FrameError(f"refused: {reason}")

    def _stop(self, attempt_ids: Sequence[str]) -> None:
        """Kill what runs; what is unknown ends here and now, so a late Start cannot run it."""
        for attempt_id in attempt_ids:
            ended = self._runner.stop(attempt_id)
            if ended is not None:
                self._ledger.end(ended)
            elif attempt_id in self._ledger.outcomes:
                self._tell([], [self._ledger.outcomes[attempt_id]])
            elif attempt_id not in self._runner.running and not self._ledger.is_over(attempt_id):
                self._ledger.end(
                    Ended(attempt_id, self._clock(), None, Cause.TERMINATED, started=False)
                )

    def _reconcile(self, attempt_ids: Sequence[str]) -> None:
        """Tell where each attempt stands; one that is neither begun nor over is lost."""
        self._tell_standing(attempt_ids)
        for attempt_id in attempt_ids:
            if attempt_id not in self._ledger.begun and attempt_id not in self._ledger.outcomes:
                why = "The executor does not know this attempt."
                self._ledger.end(lost(attempt_id, why, clock=self._clock, started=True))

    def _tell_standing(self, attempt_ids: Iterable[str]) -> None:
        """Tell which of these attempts run and how others ended; the rest has no news yet.

        If all that is known of one is that its image is fetched, it is told that nothing is new:
        who asked is to hear something.
        """
        running, outcomes = self._runner.running, self._ledger.outcomes
        known = [each for each in attempt_ids if each not in self._untold]  # told in a moment
        found = [running[each].started for each in known if each in running]
        started = [each for each in found if each is not None]
        ended = [outcomes[each] for each in known if each in outcomes]
        self._tell(started, ended, also_nothing=None in found)

    def _commit(self) -> Committed:
        """Make everything durable; nothing is spawned or told if that fails, and it is retried.

        Where there is no room for it, what failed attempts left in their work folders goes: else
        nobody could ever be told that they are over, and so remove it.
        """
        if self._monotonic() < self._retry_at:
            return Committed()
        try:
            return self._ledger.commit()
        except OSError as error:
            log.error("not_journalled error=%s", error)  # noqa: TRY400  # the sentence says it all
            self._retry_at = self._monotonic() + RETRY_S
            if error.errno in NO_ROOM:
                self._runner.remove_work(self._ledger.failed_unwritten())
            return Committed()

    def _act_on(self, committed: Committed, running: Sequence[Running]) -> None:
        """Spawn and tell what may be. running: what was spawned meanwhile."""
        self._runner.enqueue(committed.launches)
        for ended in self._runner.spawn(count_max=SPAWNS_PER_TURN):
            self._ledger.end(ended)
        self._runner.flush()
        for attempt_id, process in self._runner.identify():
            self._ledger.note_process(attempt_id, pid=process.pid, start_ticks=process.start_ticks)
        self._note_started([*running, *self._runner.take_begun()])
        started = self._take_started(committed.ended)
        fetches = any(each.started is None for each in running)
        if started or committed.ended or fetches:
            self._tell(started, committed.ended, also_nothing=fetches)

    def _note_started(self, running: Sequence[Running]) -> None:
        """Note starts that are to be told, of those that have begun."""
        tell_at = self._monotonic() + STARTED_S_MAX
        for each in running:
            if each.started is not None:
                self._untold[each.attempt_id] = (tell_at, each.started)

    def _take_started(self, ended: Sequence[Ended]) -> list[Started]:
        """The starts to be told now: of what has ended, and those whose moment has come."""
        now = self._monotonic()
        due = [each.attempt_id for each in ended if each.attempt_id in self._untold]
        due += (id_ for id_, (tell_at, _) in self._untold.items() if tell_at <= now)
        return [self._untold.pop(id_)[1] for id_ in dict.fromkeys(due)]

    def _tell(
        self, started: Sequence[Started], ended: Sequence[Ended], *, also_nothing: bool = False
    ) -> None:
        """Tell the gateway, if one listens; if not, it will be told when it comes.

        also_nothing: whether to say so if there is nothing to tell.
        """
        if self._line is None or not self._line.greeted:
            return
        try:
            for begin in range(0, max(len(started), len(ended), also_nothing), FACTS_PER_FRAME):
                end = begin + FACTS_PER_FRAME
                self._line.send(
                    frames.Facts(started=list(started[begin:end]), ended=list(ended[begin:end]))
                )
        except OSError as error:
            log.warning("line_lost error=%s", error)
            self._drop_line()
        self._watch_writing()

    def _root_is_there(self) -> bool:
        """Whether our folder still is the one we began in."""
        return _folder_key(self._root) == self._root_key

    def _may_leave(self) -> bool:
        busy = self._line is not None or not self._runner.is_idle or self._ledger.is_dirty
        now = self._monotonic()
        if busy:
            self._idle_since = now
        return not busy and now - self._idle_since >= self._linger_s

    def _kill_all(self) -> None:
        """Kill everything and wait until it is gone, but not for ever."""
        self._runner.stop_all()
        give_up_at = self._monotonic() + KILL_S_MAX
        while not self._runner.is_idle and self._monotonic() < give_up_at:
            self._runner.flush()
            self._selector.select(TURN_S_MAX)
            with suppress(BlockingIOError):
                self._wake.recv(4_096)
            self._runner.hear()
            self._runner.flush()
            self._runner.reap()


def rest_s(*, running: int, mean_run_s: float) -> float:
    """How long the loop rests between two turns, while so many attempts run."""
    return min(REST_S_MAX, REST_OF_RUN * mean_run_s) if running >= RESTS_FROM else 0.0


def _folder_key(folder: Path) -> tuple[int, int] | None:
    """What tells one folder from every other; None if it is not there."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
