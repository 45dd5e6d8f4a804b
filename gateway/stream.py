"""The stream of events: one reader is told what happens, as long as policies let them see it.

To open it is a call like any other: authenticated, decided, recorded. Then every event is decided
anew, on what it is about, by the policies of that moment. The ledger remembers, not the stream: a
reader who lost the line says the id of the last event and misses nothing.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import anyio

from gateway.authn import Identity
from gateway.call import HttpRequest, Principal
from gateway.clock import Clock
from gateway.errors import (
    AuthFailure,
    InvalidParameterValue,
    RequestLimitExceeded,
    ServiceUnavailable,
)
from gateway.pipeline import Admitted, Dialect, Pipeline
from gateway.sight import Sight, Told
from gateway.telemetry import EVENT_STREAMS

PAGE = 256
PIECE_BYTES_MAX = 64 * 1_024
LOOK_EVERY_S_MIN = 0.05  # however often something happens
LOOKS_PER_S_MAX = 1_000  # of all streams together, which bounds what they cost the other calls
POLL_S = 1.0  # how late an event is seen that another process wrote
HURRY_S = 1.0

Write = Callable[[bytes], Awaitable[None]]
"""Sends to the reader; returns when there is room for more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events one reader asks for, all of one account and region.

    names: of events, in the ledger's spelling. stream_ids: of jobs and environments. Empty: all.
    """

    owner_uin: str
    region: str
    names: frozenset[str] = frozenset()
    stream_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Page:
    """The next events.

    reached: the position up to which there are no others that were wanted. is_last: there were no
    further ones to look at.
    """

    told: Sequence[Told]
    reached: int
    is_last: bool


class Ledger(Protocol):
    """Where events are kept, in the order of their positions."""

    def find_name(self, written: str) -> str | None:
        """The ledger's spelling of an event's name; None if there is no such event."""
        ...

    async def last_position(self) -> int:
        """The position of the newest event that may be read; 0 if there is none."""
        ...

    async def find_next(self, position: int) -> int | None:
        """The position of the next event after one, wanted or not, that is kept; None for none."""
        ...

    async def find_subscriptions(self, ids: Collection[str]) -> Collection[str]:
        """The ids, of these, of the subscriptions that there still are."""
        ...

    async def read_after(self, position: int, *, limit: int, wanted: Wanted) -> Page:
        """The next events after a position, none of them skipped. Raises ServiceUnavailable."""
        ...

    def seen(self) -> int:
        """A number that changes whenever something happens; look at it before reading."""
        ...

    async def wait(self, seen: int, *, at_most_s: float) -> None:
        """Return when the number is another one, or after that time."""
        ...


class Ending(Enum):
    """Why a stream ends by itself; the reader is told, and may open a new one."""

    LIFETIME = "lifetime"
    EXPIRED = "expired"
    REVOKED = "revoked"
    DENIED = "denied"
    DRAINING = "draining"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many streams there may be, and how long each thing may take.

    streams_per_account_max: of all users of an account together. The root has streams of its own,
    as many as one user, so that users cannot keep it out.
    write_s: for a reader to make room. recheck_s: how late it is seen that a key was taken away.
    """

    streams_max: int = 256
    streams_per_account_max: int = 16
    streams_per_user_max: int = 8
    lifetime_s: float = 600.0
    idle_s: float = 15.0
    write_s: float = 30.0
    recheck_s: float = 5.0


DEFAULT_LIMITS = Limits()


class Credential:
    """What a stream was opened with, looked at again while it is open."""

    def __init__(
        self, pipeline: Pipeline, request: HttpRequest, *, identity: Identity, clock: Clock
    ) -> None:
        self._pipeline = pipeline
        self._request = request
        self._identity = identity
        self._clock = clock

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        expires_at = self._identity.expires_at
        return expires_at is not None and self._clock() >= expires_at

    async def is_good(self) -> bool:
        """Whether it would prove the same today; the request counts as received when it was."""
        try:
            identity = await self._pipeline.identify(self._request)
        except AuthFailure:
            return False
        return identity.principal == self._identity.principal


class Stream:
    """What one reader is told, from a position on."""

    def __init__(
        self,
        ledger: Ledger,
        sight: Sight,
        *,
        credential: Credential,
        wanted: Wanted,
        position: int,
        next_kept: int | None,
        limits: Limits,
        pause_s: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._sight = sight
        self._wanted = wanted
        self._limits = limits
        self._credential = credential
        self._pause_s = pause_s
        self._reached = position
        self._next_kept = next_kept
        self._told = position
        self._written_at = 0.0
        self._ends_at = anyio.current_time() + limits.lifetime_s
        self._checked_at = anyio.current_time()
        self._hurried = False
        self._nap = anyio.CancelScope()
        self._writing = anyio.CancelScope()

    def hurry(self) -> None:
        """End soon: whatever is waited for now is waited for no longer."""
        self._hurried = True
        self._nap.cancel()
        self._writing.deadline = min(self._writing.deadline, anyio.current_time() + HURRY_S)

    async def run(self, write: Write) -> Ending:
        """Tell until there is a reason to end. Raises TimeoutError if the reader does not read."""
        await self._write(write, b"retry: 1000\nid: %d\n\n" % self._reached + self._gap())
        ending: Ending | None = None
        while ending is None:
            try:
                ending = await self._tell_next(write)
            except ServiceUnavailable:
                ending = Ending.UNAVAILABLE
        await self._write(write, b'event: end\ndata: {"Reason":"%b"}\n\n' % ending.value.encode())
        return ending

    def _gap(self) -> bytes:
        """What the reader is told if the events that followed its own are no longer kept.

        Why an event and no comment: clients of server-sent events never see a comment, and who
        has missed something must be able to act on it. It has no id, so that it is said again to
        who loses the line right after it. A position that was never used, as PostgreSQL leaves
        behind now and then, counts as one that is gone: better said once too often.
        """
        if self._next_kept is None or self._next_kept == self._reached + 1:
            return b""
        return b'event: gap\ndata: {"After":%d,"Next":%d}\n\n' % (self._reached, self._next_kept)

    async def _tell_next(self, write: Write) -> Ending | None:
        """Look once at the ledger. Every piece is decided on just before it is written."""
        looked_at, seen = anyio.current_time(), self._ledger.seen()
        page = await self._ledger.read_after(self._reached, limit=PAGE, wanted=self._wanted)
        for piece in pieces_of(page.told):
            ending = await self._find_ending()
            if ending is not None:
                return ending
            visible = await self._sight.visible(piece)
            if visible:
                await self._write(write, b"".join(map(block_of, visible)))
                self._told = visible[-1].position
        self._reached = page.reached
        await self._keep_alive(write)
        await self._rest(seen, since=looked_at, is_behind=not page.is_last)
        return await self._find_ending()

    async def _find_ending(self) -> Ending | None:
        now_s = anyio.current_time()
        if self._hurried:
            return Ending.DRAINING
        if now_s >= self._ends_at:
            return Ending.LIFETIME
        if self._credential.has_expired:
            return Ending.EXPIRED
        if now_s - self._checked_at >= self._limits.recheck_s:
            self._checked_at = now_s
            if not await self._credential.is_good():
                return Ending.REVOKED
        return None if self._sight.may_open() else Ending.DENIED

    async def _keep_alive(self, write: Write) -> None:
        """Say something if nothing was for long, and how far the reader has come without events."""
        if anyio.current_time() - self._written_at < self._limits.idle_s:
            return
        moved = b"id: %d\n\n" % self._reached if self._reached > self._told else b""
        await self._write(write, b": \n" + (moved or b"\n"))
        self._told = self._reached

    async def _rest(self, seen: int, *, since: float, is_behind: bool) -> None:
        """Wait for something to happen, and never less than what the store is spared."""
        with anyio.CancelScope() as self._nap:
            if self._hurried:
                return
            if not is_behind:
                await self._ledger.wait(seen, at_most_s=min(POLL_S, self._limits.idle_s))
            await anyio.sleep_until(since + self._pause_s())

    async def _write(self, write: Write, piece: bytes) -> None:
        with anyio.fail_after(HURRY_S if self._hurried else self._limits.write_s) as self._writing:
            await write(piece)
        self._written_at = anyio.current_time()


def pieces_of(told: Iterable[Told]) -> Iterator[list[Told]]:
    """Events in pieces that are not much larger than PIECE_BYTES_MAX."""
    piece: list[Told] = []
    size = 0
    for each in told:
        piece.append(each)
        size += len(each.data)
        if size >= PIECE_BYTES_MAX:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def block_of(told: Told) -> bytes:
    """An event in the form of a server-sent one."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (told.position, told.name.encode(), told.data)


class Streams:
    """Every stream that is open, within the limits."""

    def __init__(
        self,
        pipeline: Pipeline,
        ledger: Ledger,
        *,
        clock: Clock,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._pipeline = pipeline
        self._ledger = ledger
        self._clock = clock
        self._limits = limits
        self._open: dict[Stream, Principal] = {}
        self._is_draining = False

    async def open(self, request: HttpRequest, *, request_id: str) -> Stream:
        """Let a reader in, until `leave`. Raises the ApiError of who may not, or what cannot be."""
        admitted = await self._pipeline.admit(
            request, request_id=request_id, dialect=Dialect.STREAM
        )
        wanted = self._wanted(admitted)
        last = await self._ledger.last_position()
        position = admitted.call.params.get("After", last)
        if position > last:
            raise InvalidParameterValue(f"There is no event `{position}` yet.")
        credential = Credential(
            self._pipeline, request, identity=admitted.identity, clock=self._clock
        )
        stream = Stream(
            self._ledger,
            self._sight(admitted),
            credential=credential,
            wanted=wanted,
            position=position,
            next_kept=await self._ledger.find_next(position) if position < last else None,
            limits=self._limits,
            pause_s=self._pause_s,
        )
        self._enter(stream, principal=admitted.query.principal)
        return stream

    def drain(self) -> None:
        """End every stream at once, and open no other."""
        self._is_draining = True
        for stream in self._open:
            stream.hurry()

    def leave(self, stream: Stream) -> None:
        """Make room for another stream."""
        del self._open[stream]
        EVENT_STREAMS.set(len(self._open))

    def _pause_s(self) -> float:
        """How long a stream waits from one look at the ledger to the next, at least."""
        return max(LOOK_EVERY_S_MIN, len(self._open) / LOOKS_PER_S_MAX)

    def _sight(self, admitted: Admitted) -> Sight:
        return Sight(
            admitted.query,
            lists=admitted.lists,
            policies=self._pipeline.policies,
            attributes=self._pipeline.attributes,
            find_subscriptions=self._ledger.find_subscriptions,
            clock=self._clock,
        )

    def _wanted(self, admitted: Admitted) -> Wanted:
        params = admitted.call.params
        names = {
            written: self._ledger.find_name(written) for written in params.get("EventName", ())
        }
        for written, name in names.items():
            if name is None:
                raise InvalidParameterValue(f"There is no event `{written[:64]}`.")
        return Wanted(
            owner_uin=admitted.query.principal.owner_uin,
            region=admitted.call.region,
            names=frozenset(name for name in names.values() if name),
            stream_ids=frozenset((*params.get("JobId", ()), *params.get("EnvId", ()))),
        )

    def _enter(self, stream: Stream, *, principal: Principal) -> None:
        if self._is_draining:
            raise ServiceUnavailable("The service is stopping. Try again.")
        if len(self._open) >= self._limits.streams_max:
            raise RequestLimitExceeded("Too many streams of events are open. Try again later.")
        of_account = [one for one in self._open.values() if one.owner_uin == principal.owner_uin]
        own = sum(one.uin == principal.uin for one in of_account)
        if own >= self._limits.streams_per_user_max:
            raise RequestLimitExceeded(f"You have {own} streams of events open; close one.")
        of_users = sum(not one.is_root for one in of_account)
        if not principal.is_root and of_users >= self._limits.streams_per_account_max:
            raise RequestLimitExceeded(
                f"The users of the account have {of_users} streams of events open; close one."
            )
        self._open[stream] = principal
        EVENT_STREAMS.set(len(self._open))
