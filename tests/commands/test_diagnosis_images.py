"""`doctor` tells which images nodes can be made from."""

from pathlib import Path

from gateway.commands.diagnosis import look_at_catalogue
from gateway.commands.findings import Verdict
from gateway.config import Settings


def test_every_image_is_told_with_its_system_and_cloud_init(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text('[[image]]\nid = "img-0custom1"\ncloud_init = false\n')
    found = look_at_catalogue(Settings(catalogue=str(file)))
    assert found.verdict is Verdict.OK
    for words in (
        str(file),
        "img-31tjrtph (linux, cloud-init)",
        "img-er9shcln (windows, cloud-init)",
        "img-pyqx34y1 (linux, cloud-init)",
        "img-0custom1 (linux, no cloud-init)",
    ):
        assert words in found.words
