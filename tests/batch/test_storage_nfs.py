"""The folders of file servers."""

from pathlib import Path

import pytest

from gateway.batch.storage import NfsPath
from gateway.batch.storage.nfs import NfsRoot

HOST = "10.66.0.1"


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """What one server shares, below the root."""
    path = tmp_path / "nfs" / HOST
    (path / "data" / "in").mkdir(parents=True)
    return path


@pytest.fixture
def servers(tmp_path: Path) -> NfsRoot:
    return NfsRoot(tmp_path / "nfs")


@pytest.mark.parametrize("key", ["", "data/", "data/in/"])
def test_a_folder_of_a_server_is_found(servers: NfsRoot, share: Path, key: str) -> None:
    assert servers.find_folder(NfsPath(HOST, key)) == share / key


def test_the_root_may_be_a_link_and_relative(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("nfs")
    monkeypatch.chdir(tmp_path)
    assert NfsRoot(Path("link")).find_folder(NfsPath(HOST, "data/")) == share / "data"


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("10.66.0.2", ""),
        (HOST, "absent/"),
        (HOST, "file/"),
        (HOST, "file/x/"),
        (HOST, "dangling/"),
    ],
)
def test_a_folder_that_is_not_there_is_told(
    servers: NfsRoot, share: Path, tmp_path: Path, host: str, key: str
) -> None:
    folder = NfsPath(host, key)
    (share / "file").touch()
    (share / "dangling").symlink_to("nothing")
    with pytest.raises(FileNotFoundError, match=f"The folder `{folder}` does not") as caught:
        servers.find_folder(folder)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("link", "aim"),
    [
        ("x", "/etc"),
        ("x", "../10.66.0.2"),
        ("x", "../../nfs"),
        ("x", "../.."),
        ("x", "data/up"),
        ("x", "x"),
    ],
)
def test_a_link_does_not_lead_out_of_what_a_server_shares(
    servers: NfsRoot, share: Path, tmp_path: Path, link: str, aim: str
) -> None:
    (tmp_path / "nfs" / "10.66.0.2").mkdir()
    (share / "data" / "up").symlink_to("../..")
    (share / link).symlink_to(aim)
    with pytest.raises(PermissionError, match=f"`{HOST}/x/`") as caught:
        servers.find_folder(NfsPath(HOST, f"{link}/"))
    assert str(tmp_path) not in str(caught.value)


def test_a_servers_folder_is_no_link_itself(servers: NfsRoot, tmp_path: Path) -> None:
    (tmp_path / "nfs").mkdir()
    (tmp_path / "nfs" / HOST).symlink_to("/etc")
    with pytest.raises(PermissionError):
        servers.find_folder(NfsPath(HOST, ""))


def test_a_link_inside_of_what_a_server_shares_is_followed(servers: NfsRoot, share: Path) -> None:
    (share / "latest").symlink_to("data/in")
    assert servers.find_folder(NfsPath(HOST, "latest/")) == share / "data" / "in"


@pytest.mark.parametrize("folder", [NfsPath("..", ""), NfsPath(HOST, "../"), NfsPath("a/b", "")])
def test_a_form_that_was_not_checked_leads_nowhere(
    servers: NfsRoot, share: Path, folder: NfsPath
) -> None:
    with pytest.raises(OSError, match=r"cannot be reached|does not exist"):
        servers.find_folder(folder)
