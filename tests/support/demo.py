"""The README's first minute, played against a fresh server and printed: `scripts/demo`."""

import re
import sys
import tempfile
import textwrap
from contextlib import closing
from pathlib import Path

import click

from tests.support.readme import END_OF_STEP, README, Stage, Step, read_steps
from tests.support.services import RabbitMQ, private_folder

WIDTH = 100
_LINK = re.compile(r"\[(.+?)\]\(.+?\)")


def main() -> None:
    """Play it; the folder and all servers go with the end of it."""
    first, *others = read_steps(README.read_text(encoding="utf-8"))
    with private_folder("demo-rabbitmq") as folder, closing(RabbitMQ(folder)) as broker:
        say("Starting a RabbitMQ of the demo's own.")
        broker.start()
        with tempfile.TemporaryDirectory(prefix="qcs-gateway-demo-") as place:
            stage = Stage(Path(place), broker_url=broker.url)
            show(first, stage)
            with stage.serving(first):
                if not play(others, stage):
                    sys.exit("The story ended early.")


def play(steps: list[Step], stage: Stage) -> bool:
    """Show each block of commands, then what it prints, as it prints it; tell whether all ran."""
    played = 0
    show(steps[0], stage)
    for line in stage.play(steps):
        if not line.startswith(END_OF_STEP):
            click.echo(f"  {line}", nl=False)
            continue
        played += 1
        if played < len(steps):
            show(steps[played], stage)
    return played == len(steps)


def show(step: Step, stage: Stage) -> None:
    """Print what a block is for, and its commands."""
    say(_LINK.sub(r"\1", step.said).replace("**", "").replace("`", ""))
    for line in stage.placed(step.command).splitlines():
        click.secho(f"| {line}", fg="cyan")


def say(text: str) -> None:
    """Print a sentence between empty lines."""
    click.echo()
    click.secho(textwrap.fill(text, WIDTH), bold=True)
    click.echo()


if __name__ == "__main__":
    main()
