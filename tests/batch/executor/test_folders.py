"""Which folders an attempt can have."""

from pathlib import Path

import pytest

from gateway.batch.executor.folders import attempt_folder, log_file
from gateway.errors import InvalidParameterValue

ROOT = Path("/data/engine")


@pytest.mark.parametrize("folder", ["a", "job-97zcl3wt/0/12/1", "a.b/_c", "workers/stdout2"])
def test_a_plain_folder_lies_below_the_root(folder: str) -> None:
    assert attempt_folder(ROOT, folder) == ROOT / "attempts" / folder
    assert log_file(ROOT, folder, stream="stderr") == ROOT / "attempts" / folder / "stderr"


HOSTILE = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    ".a",
    "a/.b",
    "a\n",
    "a\0",
    "ä",
]
HOSTILE += [
    "work",
    "a/work",
    "work/a",
    "a/stdout/b",
    "stderr",
    "a/container/b",
    "-a",
    "a b",
    "~",
    "a" * 201,
    "a/" * 600,
]


@pytest.mark.parametrize("folder", HOSTILE)
def test_any_other_folder_is_refused(folder: str) -> None:
    with pytest.raises(InvalidParameterValue):
        attempt_folder(ROOT, folder)


@pytest.mark.parametrize("stream", ["", "stdin", "../stdout", "work"])
def test_there_are_two_streams(stream: str) -> None:
    with pytest.raises(InvalidParameterValue):
        log_file(ROOT, "a", stream=stream)
