"""What every verb of the command shares: its options, its settings, how it fails."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from gateway.clock import now
from gateway.config import Settings, SettingsError, load
from gateway.events.bus import TopicAddress

T = TypeVar("T")

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Time(click.ParamType[datetime]):
    """`2026-11-21`, `2026-11-21T09:30:00Z`, or how long ago: `30s`, `15m`, `2h`, `3d`."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Read one; what names no zone is in UTC."""
        try:
            if found := _AGO.fullmatch(value):
                return now() - timedelta(**{_UNITS[found[2]]: int(found[1])})
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither a time nor how long ago, such as 15m.", param, ctx)


file_type = click.Path(path_type=Path, exists=True, dir_okay=False)
folder_type = click.Path(path_type=Path, exists=True, file_okay=False)
config_option = click.option(
    "--config", type=click.Path(path_type=Path, exists=True), help="Settings file."
)
data_option = click.option("--data", type=click.Path(path_type=Path), help="Folder of all state.")
policies_option = click.option("--policies", type=folder_type, help="Folder of policies.")
owner_option = click.option("--uin", "owner_uin", help="The account, if not the default one.")
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


def parsed(function: Callable[[], T]) -> T:
    """Read what was typed; what cannot be read is misuse."""
    try:
        return run_or_explain(function, exit_code=2)
    except ValueError as error:
        misuse(str(error))


def _first_of(error: BaseException) -> BaseException:
    return _first_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _fail(error: BaseException, exit_code: int) -> NoReturn:
    click.echo(f"qcs-gateway: {error}", err=True)
    sys.exit(exit_code)


def misuse(text: str) -> NoReturn:
    """Say what was asked for wrongly, and end."""
    click.echo(f"qcs-gateway: {text}", err=True)
    sys.exit(2)


def topic_key(settings: Settings, name: str, *, owner_uin: str | None, region: str | None) -> str:
    """How the rows of a topic's messages name it; account and region of the settings by default."""
    address = TopicAddress(owner_uin or settings.root_uin, region or settings.region, name)
    return address.key
