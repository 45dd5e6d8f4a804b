"""What the engine has of each account, as the scheduler last knew."""

from collections.abc import Iterable, Set

from gateway.batch.slots import Room, Slots, Turns


class Live:
    """The attempts that the engine has. mem_gib: what their nodes count for together."""

    def __init__(self) -> None:
        self.mem_gib = 0
        self._attempts: dict[str, tuple[str, int]] = {}  # account and memory
        self._used: dict[str, tuple[int, int]] = {}  # places and memory, by account
        self._turns = Turns()

    def __len__(self) -> int:
        return len(self._attempts)

    def add(self, attempt_id: str, *, owner_uin: str, mem_gib: int) -> None:
        """Count an attempt that the engine is given."""
        self.end([attempt_id])
        self._attempts[attempt_id] = owner_uin, mem_gib
        self._count(owner_uin, 1, mem_gib=mem_gib)
        if not self._turns.last(owner_uin):  # it had it before this process was there
            self._turns.note(owner_uin)

    def end(self, attempt_ids: Iterable[str]) -> None:
        """Count these attempts no more; some may be unknown."""
        for attempt_id in attempt_ids:
            if attempt_id in self._attempts:
                owner_uin, mem_gib = self._attempts.pop(attempt_id)
                self._count(owner_uin, -1, mem_gib=-mem_gib)

    def clear(self) -> None:
        """Forget all attempts, not whose turn it is."""
        self.end(list(self._attempts))

    def used(self) -> dict[str, tuple[int, int]]:
        """Places and memory that each account has."""
        return dict(self._used)

    def slots(self, *, capacity: int, mem_gib: int, newcomers: Set[str]) -> Slots:
        """What is free of an engine's room. newcomers: accounts with jobs that are due."""
        return Slots(
            Room(max(0, capacity - len(self)), max(0, mem_gib - self.mem_gib), mem_gib),
            capacity,
            used={owner: Room(*used, mem_gib) for owner, used in self._used.items()},
            accounts={*self._used, *newcomers},
            newcomers=newcomers,
            turns=self._turns,
        )

    def _count(self, owner_uin: str, attempts: int, *, mem_gib: int) -> None:
        places, used_gib = self._used.pop(owner_uin, (0, 0))
        if places + attempts:
            self._used[owner_uin] = places + attempts, used_gib + mem_gib
        self.mem_gib += mem_gib
