"""The file that declares who may issue bearer tokens."""

from pathlib import Path

import pytest

from gateway.authn.issuers import read_issuers
from gateway.authn.jwt import Algorithm
from gateway.config import SettingsError

GOOD = """
[[issuer]]
name = "https://login.example"
algorithm = "HS256"
key_file = "secret"
audience = "qcs-gateway"
owner_uins = ["100"]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "secret").write_text("s" * 32)
    path = folder / "issuers.toml"
    path.write_text(text)
    return path


def test_an_issuer_is_read_with_its_key(tmp_path: Path) -> None:
    (issuer,) = read_issuers(write(tmp_path, GOOD))
    assert issuer.algorithm is Algorithm.HS256
    assert issuer.key == "s" * 32
    assert issuer.owner_uins == {"100"}
    assert issuer.max_lifetime_s == 3_600


@pytest.mark.parametrize(
    ("written", "key"),
    [(b"%b\n", "%s"), (b"%b\r\n", "%s"), (b"%b\n\n", "%s\n"), (b"%b ", "%s ")],
)
def test_the_line_end_that_an_editor_leaves_is_no_part_of_a_secret(
    tmp_path: Path, written: bytes, key: str
) -> None:
    path = write(tmp_path, GOOD)
    (tmp_path / "secret").write_bytes(written % (b"s" * 32))
    (issuer,) = read_issuers(path)
    assert issuer.key == key % ("s" * 32)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("HS256", "none"), "must be one of"),
        (('key_file = "secret"', 'key_file = "absent"'), "absent"),
        (('owner_uins = ["100"]', "owner_uins = []"), "names no account"),
        (('audience = "qcs-gateway"', ""), "`audience` is missing"),
        (("audience", 'jku = "x"\naudience'), "`jku` is unknown"),
        (('owner_uins = ["100"]', 'owner_uins = ["100"]\nmax_lifetime_s = "0"'), "seconds"),
        (("[[issuer]]", "[[issuers]]"), "`issuers` is unknown"),
    ],
)
def test_a_file_that_is_wrong_is_refused_as_a_whole(
    tmp_path: Path, change: tuple[str, str], why: str
) -> None:
    with pytest.raises(SettingsError, match=why):
        read_issuers(write(tmp_path, GOOD.replace(*change)))
