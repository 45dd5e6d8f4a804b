"""Who may have an image that was fetched with a password: whom the registry gives it to."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from msgspec import structs

from gateway.batch.engines import Cause, Container
from gateway.batch.engines.local import LocalEngine
from gateway.batch.executor.container_run import find_image
from gateway.batch.executor.containers import Task, read_task
from gateway.batch.executor.folders import ATTEMPTS, SCRATCH
from gateway.batch.executor.images import FETCHED, full_name, guard, image_names, is_guarded
from tests.batch.executor.executors import local_engine
from tests.batch.executor.test_containers import run
from tests.support.attempts import launch
from tests.support.images import IMAGE, ImageStore, Registry, registry

USER, PASSWORD = "puller", "p4ss-w0rd-of-the-registry"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
async def engine(root: Path, store: ImageStore) -> AsyncIterator[LocalEngine]:
    store.write_settings(root)
    async with local_engine(root, isolation="none") as opened:
        yield opened


@pytest.fixture
def served(store: ImageStore) -> Iterator[Registry]:
    with registry(user=USER, password=PASSWORD) as opened:
        yield opened
        store.podman("rmi", "--force", "--ignore", opened.image)


async def outcome(engine: LocalEngine, container: Container) -> tuple[Cause | None, str]:
    ended, out, _ = await run(engine, structs.replace(launch("echo ran"), container=container))
    assert (out == "ran\n") is (ended.cause is None)
    return ended.cause, ended.detail


@pytest.mark.anyio
async def test_what_was_fetched_with_a_password_is_given_to_nobody_without_it(
    engine: LocalEngine, store: ImageStore, served: Registry
) -> None:
    allowed = Container(served.image, user=USER, password=PASSWORD)
    assert await outcome(engine, allowed) == (None, "")
    for other in (replace(allowed, user="", password=""), replace(allowed, password="wrong")):
        cause, why = await outcome(engine, other)
        assert cause is Cause.STORAGE
        assert "unauthorized" in why
    assert await outcome(engine, allowed) == (None, "")
    layer = max((each for each in served.asked if "/blobs/" in each), key=served.asked.index)
    assert served.asked.count(layer) == 1, "what is there is not fetched again"


@pytest.mark.anyio
async def test_it_is_found_by_no_other_name_either(
    engine: LocalEngine, store: ImageStore, root: Path, served: Registry
) -> None:
    """Podman itself knows it by all of these."""
    allowed = Container(served.image, user=USER, password=PASSWORD)
    assert await outcome(engine, allowed) == (None, "")
    form = "{{.Id}} {{index .RepoDigests 0}}"
    id_, by_digest = store.podman("image", "inspect", "--format", form, served.image).split()
    server, short = served.image.split("/", 1)
    tag_and_digest = f"{served.image}@{by_digest.partition('@')[2]}"
    for name in (short, id_, id_[:12], by_digest, tag_and_digest):
        assert store.podman("image", "inspect", "--format", "{{.Id}}", name).split() == [id_]
        assert find_image(task_for(Container(name), store=store, root=root)) is None
    assert find_image(task_for(Container(short, server=server), store=store, root=root)) is None
    assert find_image(task_for(Container(IMAGE), store=store, root=root)) is not None
    assert find_image(task_for(Container("busybox:1"), store=store, root=root)) is not None


def task_for(container: Container, *, store: ImageStore, root: Path) -> Task:
    """One that looks for an image in a store."""
    folder = root / "looking"
    (folder / SCRATCH).mkdir(parents=True, exist_ok=True)
    settings = [
        f"CONTAINERS_{name}CONF={store.folder}/{file}.conf"
        for name, file in (("", "containers"), ("STORAGE_", "storage"))
    ]
    return Task(
        program=("/usr/bin/env", *settings, "podman", "--cgroup-manager", "cgroupfs"),
        is_podman=True,
        name="qcs-x",
        names=image_names(container),
        run=(),
        command=(),
        folder=str(folder),
        fetched=str(root / FETCHED),
    )


@pytest.mark.anyio
async def test_it_is_given_to_nobody_while_its_registry_cannot_be_asked(
    engine: LocalEngine, served: Registry
) -> None:
    allowed = Container(served.image, user=USER, password=PASSWORD)
    assert await outcome(engine, allowed) == (None, "")
    served.failures = 3
    cause, _ = await outcome(engine, allowed)
    assert cause is Cause.STORAGE


@pytest.mark.anyio
async def test_what_the_operator_put_into_the_store_serves_as_it_is(
    engine: LocalEngine, store: ImageStore, root: Path, served: Registry
) -> None:
    wrong = Container(served.image, user=USER, password="wrong")
    cause, _ = await outcome(engine, wrong)
    assert cause is Cause.STORAGE
    assert [each for each in (root / FETCHED).rglob("*") if each.is_file()] == []
    store.podman("tag", IMAGE, served.image)
    assert await outcome(engine, wrong) == (None, "")


def test_a_note_holds_for_its_tag_and_for_every_digest_of_its_repository(tmp_path: Path) -> None:
    folder = str(tmp_path / FETCHED)
    names = [f"h:5/a/b:{tag}" for tag in ("1", "2")] + [f"h:5/a/b@{DIGEST}", "h:5/a:1"]

    def guarded() -> list[bool]:
        return [is_guarded(folder, each) for each in names]

    assert guarded() == [False] * 4
    first = guard(folder, names[0], attempt="qcs-x-1")
    second = guard(folder, names[0], attempt="qcs-x-2")
    assert guarded() == [True, False, True, False]
    first.keep()
    second.drop()
    assert guarded() == [True, False, True, False]
    guard(folder, names[0], attempt="qcs-x-3").drop()
    guard(folder, names[3], attempt="qcs-x-4").drop()
    assert guarded() == [True, False, True, False]


@pytest.mark.parametrize(
    ("image", "server", "names"),
    [
        ("a", "", ("localhost/a:latest", "docker.io/library/a:latest")),
        ("a/b:1", "https://index.docker.io/v1/", ("localhost/a/b:1", "docker.io/a/b:1")),
        ("a:1", "http://h:5/v2", ("h:5/a:1",)),
        ("h.x/a", "k", ("h.x/a:latest",)),
        ("index.docker.io/a:1", "", ("docker.io/library/a:1",)),
        (f"h:5/a:1@{DIGEST}", "", (f"h:5/a@{DIGEST}",)),
    ],
)
def test_the_names_of_an_image_are_whole(image: str, server: str, names: tuple[str, ...]) -> None:
    assert image_names(Container(image, server=server)) == names
    assert tuple(map(full_name, names)) == names


def test_what_an_older_executor_asks_for_is_understood(store: ImageStore, root: Path) -> None:
    task = replace(
        task_for(Container("busybox:1"), store=store, root=root),
        folder=f"{root}/{ATTEMPTS}/job-00000001/0/1/1",
    )
    older = asdict(task) | {"names": ("busybox:1", "docker.io/library/busybox:1")}
    del older["fetched"]
    assert read_task(json.dumps(older).encode()) == task
    assert read_task(json.dumps(asdict(task)).encode()) == task
