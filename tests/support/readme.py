"""The README as a story that can be played, and the parts of it that are made from the code."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.batch.states import FINAL, MOVES, NODE, State
from tests.support.running import ROOT, Gateway
from tests.support.services import LOOPBACK

README = ROOT / "README.md"
BROKER_URL = "amqp://guest:guest@127.0.0.1:5672/"
PLAY_S = 100
END_OF_STEP = "\x1e"
_STEP = re.compile(
    r"(?P<said>[^\n]+)\n\n```sh\n(?P<command>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
_MADE = re.compile(
    r"(?P<begin><!-- begin: (?P<name>\w+) -->\n)(?P<text>.*?)(?P<end><!-- end: (?P=name) -->)",
    re.DOTALL,
)
_VARYING = re.compile(
    r"(?:job|node|ins)-[a-z0-9]{8}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}(?:-\d\d){2}T[0-9:]{8}Z"
)


@dataclass(frozen=True)
class Step:
    """One block of commands: the sentence before it, and what the README says it prints."""

    said: str
    command: str
    output: str


def read_steps(text: str) -> list[Step]:
    """The blocks of commands, in order; the first one serves."""
    return [
        Step(match["said"], match["command"], match["output"] or "")
        for match in _STEP.finditer(text)
    ]


def without_luck(text: str) -> str:
    """The text without ids and times, which differ from run to run."""
    return _VARYING.sub(lambda found: re.sub(r"[a-z0-9]", "0", found[0]), text)


class Stage(Gateway):
    """A gateway that is started as the README says, in a folder and on ports of its own."""

    def __init__(self, folder: Path, *, broker_url: str) -> None:
        super().__init__(folder, settings={"HOME": str(folder)})
        self._broker_url = broker_url

    def placed(self, text: str) -> str:
        """The README's commands, with this stage's ports and folder in them."""
        return (
            text.replace(BROKER_URL, self._broker_url)
            .replace("127.0.0.1:8080", f"{LOOPBACK}:{self.port}")
            .replace(" var/", f" {self.data}/")
        )

    @contextmanager
    def serving(self, step: Step) -> Iterator[None]:
        """Run the block that serves, until the end of the story."""
        # without a shell in between, so that what ends the one ends the other
        command = self.placed(step.command).replace("scripts/serve", "exec scripts/serve")
        self.start(command=["bash", "-ec", f"cd {ROOT}\n{command}"])
        try:
            yield
        finally:
            self.remove()

    def play(self, steps: list[Step]) -> Iterator[str]:
        """Run the other blocks in one shell; yield its lines, END_OF_STEP after each block.

        The first command that fails ends the story.
        """
        prologue = f"set -eo pipefail\ncd {ROOT}\nexec 2>&1\n"
        blocks = [f"{self.placed(step.command)}\nprintf '{END_OF_STEP}\\n'\n" for step in steps]
        with subprocess.Popen(
            ["timeout", str(PLAY_S), "bash", "-c", f"{prologue}{''.join(blocks)}"],
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as shell:
            assert shell.stdout is not None
            yield from shell.stdout


def made() -> Mapping[str, str]:
    """The parts of the README that are made from the code, by the name in their markers."""
    return {name: make() for name, make in _MAKERS.items()}


def made_parts(text: str) -> Mapping[str, str]:
    """What the README has between its markers."""
    return {match["name"]: match["text"] for match in _MADE.finditer(text)}


def remade(text: str) -> str:
    """The README with every made part made anew; other marked parts stay."""
    parts = made()
    return _MADE.sub(
        lambda found: found["begin"] + parts.get(found["name"], found["text"]) + found["end"], text
    )


def _states() -> str:
    """Moves between the same two states share an arrow."""
    words: dict[tuple[State, State], list[str]] = {}
    for (before, trigger), after in MOVES.items():
        words.setdefault((before, after), []).append(trigger.value)
    moves = [f"{a.value} --> {b.value}: {' / '.join(whys)}" for (a, b), whys in words.items()]
    ends = [f"{state.value} --> [*]" for state in State if state in FINAL]
    return _diagram(["[*] --> SUBMITTED", *moves, *ends])


def _nodes() -> str:
    moves = [f"{old.value} --> {new.value}: {why.value}" for (old, why), (new, _) in NODE.items()]
    return _diagram(["[*] --> PENDING", *moves, "DELETING --> [*]"])


def _diagram(lines: list[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"\n```mermaid\nstateDiagram-v2\n{body}```\n\n"


_MAKERS: Mapping[str, Callable[[], str]] = {
    "states": _states,
    "nodes": _nodes,
}
