"""What every verb of the command shares: its options, its settings, how it fails."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from gateway.config import Settings, SettingsError, load

T = TypeVar("T")

config_option = click.option(
    "--config", type=click.Path(path_type=Path, exists=True), help="Settings file."
)
data_option = click.option("--data", type=click.Path(path_type=Path), help="Folder of all state.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def settings_from(*, config: Path | None, **options: Any) -> Settings:
    """The settings with what the options say in their place; a wrong value is misuse."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return replace(load(config), **given)
    except SettingsError as error:
        misuse(str(error))


def run_or_explain(function: Callable[[], T], *, exit_code: int = 1) -> T:
    """Run something; what an operator can mend is said in a line instead of a traceback.

    exit_code: 2 for a verb whose 1 is an answer.
    """
    from gateway.administration import OPERATOR_ERRORS  # noqa: PLC0415

    try:
        return function()
    except OPERATOR_ERRORS as error:
        _fail(error, exit_code)
    except BaseExceptionGroup as group:  # what was raised while other tasks were running
        mendable, rest = group.split(OPERATOR_ERRORS)
        if mendable is None or rest is not None:
            raise
        _fail(_first_of(mendable), exit_code)


def _first_of(error: BaseException) -> BaseException:
    return _first_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _fail(error: BaseException, exit_code: int) -> NoReturn:
    click.echo(f"qcs-gateway: {error}", err=True)
    sys.exit(exit_code)


def misuse(text: str) -> NoReturn:
    """Say what was asked for wrongly, and end."""
    click.echo(f"qcs-gateway: {text}", err=True)
    sys.exit(2)
