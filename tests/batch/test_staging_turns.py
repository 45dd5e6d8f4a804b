"""Whose turn it is to be prepared or kept, and how both end before their time."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from gateway import clock
from gateway.batch import datatypes
from gateway.batch.attempts import Attempt
from gateway.batch.engines import Cause, Ended, Mount
from gateway.batch.launching import Launcher, build_launcher
from gateway.batch.staging.keeping import AT_ONCE_OF_ONE, TO_WAIT, Keeper
from gateway.batch.staging.places import Order
from gateway.batch.staging.preparing import Preparer
from gateway.batch.storage import Halted, RemoteFile, RemotePath, Storage, never, trees
from gateway.batch.storage.local import LocalStorage
from gateway.batch.storage.nfs import NfsRoot
from gateway.service import decode
from gateway.store import Store
from tests.support.batch import PROCESSES_MAX, START, VAULT, Batch, a_task, eventually
from tests.support.staging import BUCKET, COS, FarStorage, Machine, put

pytestmark = pytest.mark.anyio
INPUT = {"SourcePath": f"{COS}input/", "DestinationPath": "/data/input/"}
OUTPUT = {"SourcePath": "/work/out", "DestinationPath": f"{COS}out/"}
OTHER_BOOT = "00000000-0000-0000-0000-000000000000"


async def until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await eventually(holds)


def to_prepare(root: Path, **members: Any) -> Order:
    return Order(decode(a_task(**members), datatypes.Task), root / "attempts" / "a")


# Preparing ---------------------------------------------------------------------------------------


class Endless(LocalStorage):
    """What is fetched from here never comes to its end by itself."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetching = threading.Event()
        self.ended_as: list[int | None] = []

    def find_folder(self, folder: RemotePath) -> Any:
        return None

    def fetch_tree(
        self, folder: RemotePath, target: Path, *, halted: Halted = never, **_: Any
    ) -> None:
        self._fetch(halted)

    def fetch_file(
        self, path: RemoteFile, target: Path, *, halted: Halted = never, **_: Any
    ) -> None:
        self._fetch(halted)

    def _fetch(self, halted: Halted) -> None:
        self.fetching.set()
        try:
            while True:
                trees.check_wanted(halted)
        except OSError as error:
            self.ended_as.append(error.errno)
            raise


@pytest.mark.parametrize(
    "members",
    [
        {"InputMappings": [INPUT]},
        {
            "Application": {
                "DeliveryForm": "PACKAGE",
                "PackagePath": f"{COS}p.tgz",
                "Command": "true",
            }
        },
    ],
    ids=["input", "package"],
)
async def test_what_comes_from_a_bucket_ends_when_nobody_wants_it_any_more(
    tmp_path: Path, members: dict[str, Any]
) -> None:
    storage = Endless(tmp_path / "cos")
    preparer = Preparer(storage, NfsRoot(tmp_path / "nfs"))
    (tmp_path / "attempts").mkdir()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(preparer.prepare, to_prepare(tmp_path, **members))
        await until(storage.fetching.is_set)
        tasks.cancel_scope.cancel()
    assert storage.ended_as == [errno.ECANCELED]


def as_of_another_boot(note: bytes) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(note), "boot_id": OTHER_BOOT})


async def test_what_another_boot_prepared_is_prepared_anew(tmp_path: Path) -> None:
    """The note outlives a power cut; what it speaks of need not."""
    put(tmp_path, "input/x")
    storage = FarStorage(tmp_path / "cos")
    storage.open_.set()
    preparer = Preparer(storage, NfsRoot(tmp_path / "nfs"))
    order = to_prepare(tmp_path, InputMappings=[INPUT])
    [mount] = await preparer.prepare(order)
    fetched = Path(mount.source) / "x"
    fetched.write_bytes(b"")  # as after a power cut
    note = order.attempt / "staged.json"
    note.write_bytes(as_of_another_boot(note.read_bytes()))
    assert await preparer.prepare(order) == (mount,)
    assert fetched.read_bytes() == b"x"
    fetched.write_bytes(b"touched")
    assert await preparer.prepare(order) == (mount,)
    assert fetched.read_bytes() == b"touched", "of this boot it is left alone"
    note.write_bytes(msgspec.json.encode(msgspec.json.decode(note.read_bytes())["mounts"]))
    assert await preparer.prepare(order) == (mount,)
    assert fetched.read_bytes() == b"touched", "a note of an older form counts as of this boot"


# Launching ---------------------------------------------------------------------------------------


def a_launcher(store: Store, root: Path, storage: Storage) -> Launcher:
    return build_launcher(
        store,
        Machine(root, lambda *_: 0),
        storage=storage,
        servers=NfsRoot(root / "nfs"),
        vault=VAULT,
        processes_max=PROCESSES_MAX,
        clock=clock.now,
    )


async def test_what_could_not_be_prepared_is_gone_before_it_is_told(
    store: Store, tmp_path: Path
) -> None:
    """It may have filled the disk that the end is written to."""

    class Full(Endless):
        def fetch_tree(self, folder: RemotePath, target: Path, **_: Any) -> None:
            (target / "half").write_bytes(b"x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    job_id = await Batch(store, Machine(tmp_path, lambda *_: 0), folder=tmp_path).submit(
        a_task(InputMappings=[INPUT])
    )
    attempt = Attempt(job_id, 0, 0, 1)
    launcher = a_launcher(store, tmp_path, Full(tmp_path / "cos"))
    told: list[tuple[Ended, list[str]]] = []

    def report(ended: Ended) -> None:
        folder = tmp_path / "attempts" / attempt.folder
        told.append((ended, [each.name for each in folder.iterdir()]))

    async with anyio.create_task_group() as tasks:
        await tasks.start(launcher.run, report)
        await launcher.start({attempt: None})
        await until(lambda: bool(told))
        tasks.cancel_scope.cancel()
    [(ended, left)] = told
    assert ended.cause is Cause.STORAGE
    assert "No space left on device" in ended.detail
    assert left == []


async def test_nothing_is_kept_of_a_command_that_never_ran(store: Store, tmp_path: Path) -> None:
    launcher = a_launcher(store, tmp_path, LocalStorage(tmp_path / "cos"))
    attempt_id = Attempt("job-00000001", 0, 0, 1).id
    ended = Ended(attempt_id, START, None, Cause.TERMINATED, started=False)
    assert not launcher.leaves_files(ended)
    assert launcher.leaves_files(Ended(attempt_id, START, None, Cause.TERMINATED))


# Keeping -----------------------------------------------------------------------------------------


class Keepings:
    """Keeps attempts of several accounts; the outputs of account "1" take until `go_on` is set."""

    def __init__(self, root: Path) -> None:
        self.go_on = threading.Event()
        self.begun: list[str] = []
        self.ended: dict[str, Ended] = {}
        self.told: dict[str, list[str]] = {}
        self._machine = Machine(root, lambda *_: 0)
        self.keeper = Keeper(self._machine, self._storage(root / "cos"))

    @property
    def waiting(self) -> list[str]:
        """Who has said that they wait for their turn, and nothing since."""
        return [id_ for id_, told in self.told.items() if told == [TO_WAIT]]

    def _storage(self, root: Path) -> Storage:
        keepings = self

        class Long(LocalStorage):
            def put_tree(self, source: Path, *, halted: Halted = never, **how: Any) -> Any:
                [owner] = [each.name for each in source.iterdir()]
                keepings.begun.append(owner)
                while owner == "1" and not keepings.go_on.wait(0.001):
                    trees.check_wanted(halted)
                return super().put_tree(source, halted=halted, **how)

        return Long(root)

    async def keep(self, attempt: Attempt, owner: str, cause: Cause | None = None) -> None:
        folder = self._machine.attempt_path(attempt.folder)
        (folder / "work" / "out").mkdir(parents=True)
        (folder / "work" / "out" / owner).write_text(attempt.id)
        order = Order(
            decode(a_task(OutputMappings=[OUTPUT]), datatypes.Task), folder, owner_uin=owner
        )
        told = self.told[attempt.id] = []
        self.ended[attempt.id] = await self.keeper.keep(
            Ended(attempt.id, START, 0, cause), attempt, order=order, tell=told.append
        )


MANY = [Attempt("job-00000001", 0, number, 1) for number in range(AT_ONCE_OF_ONE + 3)]


async def test_long_outputs_hold_up_nobody_elses_and_say_that_they_wait(tmp_path: Path) -> None:
    keepings, other = Keepings(tmp_path), Attempt("job-00000002", 0, 0, 1)
    async with anyio.create_task_group() as tasks:
        for each in MANY:
            tasks.start_soon(keepings.keep, each, "1")
        await until(lambda: keepings.begun.count("1") == AT_ONCE_OF_ONE)
        await keepings.keep(other, "2")
        assert keepings.ended[other.id].cause is None
        assert keepings.told[other.id] == [""], "it did not have to wait"
        await until(lambda: len(keepings.waiting) == len(MANY) - AT_ONCE_OF_ONE)
        assert keepings.begun.count("1") == AT_ONCE_OF_ONE
        keepings.go_on.set()
    assert {each.cause for each in keepings.ended.values()} == {None}
    assert (tmp_path / "cos" / BUCKET / "out" / "2").read_text() == other.id
    assert all(told[-1] == "" for told in keepings.told.values())


async def test_who_waits_for_its_turn_hears_a_termination(tmp_path: Path) -> None:
    keepings = Keepings(tmp_path)
    async with anyio.create_task_group() as tasks:
        for each in MANY:
            tasks.start_soon(keepings.keep, each, "1")
        await until(lambda: keepings.begun.count("1") == AT_ONCE_OF_ONE)
        await until(lambda: len(keepings.waiting) == len(MANY) - AT_ONCE_OF_ONE)
        waiting = keepings.waiting
        keepings.keeper.stop(waiting)
        await until(lambda: len(keepings.ended) == len(waiting))
        assert {each.cause for each in keepings.ended.values()} == {Cause.TERMINATED}
        assert keepings.ended.keys() == set(waiting)
        keepings.go_on.set()
    assert keepings.begun.count("1") == AT_ONCE_OF_ONE, "nothing was begun of what was terminated"


async def test_what_was_terminated_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batch.staging.keeping.TERMINATED_S_MAX", 0)
    keepings = Keepings(tmp_path)
    async with anyio.create_task_group() as tasks:
        for each in MANY[:AT_ONCE_OF_ONE]:
            tasks.start_soon(keepings.keep, each, "1")
        await until(lambda: keepings.begun.count("1") == AT_ONCE_OF_ONE)
        await keepings.keep(MANY[-1], "1", Cause.TERMINATED)
        assert [*keepings.ended] == [MANY[-1].id]
        assert keepings.ended[MANY[-1].id].cause is Cause.TERMINATED
        keepings.go_on.set()
    assert keepings.begun.count("1") == AT_ONCE_OF_ONE


async def test_who_waits_for_its_turn_can_be_cancelled_and_leaves_its_place(
    tmp_path: Path,
) -> None:
    keepings = Keepings(tmp_path)
    async with anyio.create_task_group() as tasks:
        for each in MANY:
            tasks.start_soon(keepings.keep, each, "1")
        await until(lambda: keepings.begun.count("1") == AT_ONCE_OF_ONE)
        tasks.cancel_scope.cancel()
    keepings.go_on.set()
    last = Attempt("job-00000003", 0, 0, 1)
    await keepings.keep(last, "1")
    assert keepings.ended == {last.id: keepings.ended[last.id]}
    assert keepings.told[last.id] == [""]


async def test_what_an_older_gateway_prepared_is_kept(tmp_path: Path) -> None:
    """Its note has the mounts alone."""
    machine, attempt = Machine(tmp_path, lambda *_: 0), Attempt("job-00000001", 0, 0, 1)
    folder = machine.attempt_path(attempt.folder)
    output = folder / "outputs" / "1"
    output.mkdir(parents=True)
    (output / "x").write_text("result")
    mounts = (Mount(str(output), "/data/out", writable=True),)
    (folder / "staged.json").write_bytes(msgspec.json.encode(mounts))
    mapping = {"SourcePath": "/data/out", "DestinationPath": f"{COS}out/"}
    order = Order(decode(a_task(OutputMappings=[mapping]), datatypes.Task), folder)
    keeper = Keeper(machine, LocalStorage(tmp_path / "cos"))
    ended = await keeper.keep(Ended(attempt.id, START, 0, None), attempt, order=order)
    assert ended.cause is None
    assert (tmp_path / "cos" / BUCKET / "out" / "x").read_text() == "result"
