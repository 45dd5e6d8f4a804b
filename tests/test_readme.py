"""The README says what is so: its commands are run, its tables and diagrams compared."""

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from gateway.config import Settings
from tests.support.readme import (
    END_OF_STEP,
    README,
    Stage,
    made,
    made_parts,
    read_steps,
    remade,
    without_luck,
)
from tests.support.running import ROOT
from tests.support.services import RabbitMQ

LINK = re.compile(r"\]\((?P<target>[^)#:]+)\)")


@pytest.fixture(scope="module")
def text() -> str:
    return README.read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_its_commands_print_what_it_says(text: str, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    first, *others = read_steps(text)
    assert "scripts/serve" in first.command
    stage = Stage(tmp_path, broker_url=rabbitmq.url)
    with stage.serving(first):
        printed = "".join(stage.play(others)).split(f"{END_OF_STEP}\n")
    assert len(printed) == len(others) + 1, f"it ended early: {printed[-1]}"
    said = [without_luck(step.output) for step in others]
    assert [without_luck(output) for output in printed[:-1]] == said


def test_what_it_takes_from_the_code_is_as_the_code_is_now(text: str) -> None:
    if os.environ.get("GOLDEN") == "write":
        README.write_text(text := remade(text), encoding="utf-8")
    parts = made_parts(text)
    assert {name: parts.get(name) for name in made()} == made()


def test_it_names_every_setting_with_its_default(text: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\|", section(text, "Settings"), re.MULTILINE)
    defaults = {field.name: str(field.default) for field in fields(Settings)}
    assert dict(rows) == defaults


def test_its_map_has_every_folder_and_no_other(text: str) -> None:
    named = set(re.findall(r"`(\w+\.py|\w+/)`", section(text, "The map of the house")))
    rooms = {f"{path.parent.name}/" for path in (ROOT / "gateway").glob("*/__init__.py")}
    modules = {path.name for path in (ROOT / "gateway").glob("[!_]*.py")}
    inner = {f"{path.parent.name}/" for path in (ROOT / "gateway").glob("*/*/__init__.py")}
    assert named - {"gateway/"} == rooms | modules | inner


def test_its_links_lead_somewhere(text: str) -> None:
    broken = [target for target in LINK.findall(text) if not (ROOT / target).exists()]
    assert broken == []


def test_the_files_it_names_exist(text: str) -> None:
    places = re.findall(r"`((?:catalog|policy|batch|policies|tests|scripts)/[\w./]+)`", text)
    missing = [
        place for place in places if not (ROOT / place).exists() and not in_gateway(place).exists()
    ]
    assert len(places) > 10
    assert missing == []


def in_gateway(place: str) -> Path:
    path = ROOT / "gateway" / place
    return path if path.exists() else path.with_suffix(".py")
