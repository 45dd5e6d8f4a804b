"""The command `qcs-gateway`: parses and prints, nothing else.

Exit codes: 0 yes, 1 no, 2 misuse.
"""

import json
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


@click.group()
@click.version_option(package_name="qcs-gateway")
def main() -> None:
    """Run batch jobs under CAM policies, and hear what happened."""


@main.command()
@config_option
@data_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port of the API.")
@click.option("--management-port", type=click.IntRange(0, 65_535), help="Port of /readyz.")
def serve(**options: Any) -> None:
    """Serve until SIGTERM."""
    settings = _settings(**options)
    from gateway.app import serve as serve_app  # noqa: PLC0415  # other verbs start without it

    _run_or_explain(lambda: serve_app(settings))


@main.command()
@config_option
@data_option
def migrate(**options: Any) -> None:
    """Bring the database to the newest revision."""
    from gateway.administration import migrate_database  # noqa: PLC0415

    settings = _settings(**options)
    _run_or_explain(lambda: migrate_database(settings))
    click.echo("The database is up to date.", err=True)


@main.group()
def keys() -> None:
    """Access keys of users."""


@keys.command("create")
@click.option("--user", required=True, help="The user's name in accounts.toml.")
@click.option("--uin", "owner_uin", help="The account, if not the default one.")
@click.option("--env", "as_env", is_flag=True, help="Print the variables that tccli reads.")
@config_option
@data_option
@json_option
def keys_create(
    user: str, owner_uin: str | None, as_env: bool, as_json: bool, **options: Any
) -> None:
    """Make an access key; its secret is shown this once."""
    from gateway.administration import create_key  # noqa: PLC0415

    settings = _settings(**options)
    made = _run_or_explain(
        lambda: create_key(settings, user=user, owner_uin=owner_uin or settings.root_uin)
    )
    if as_json:
        click.echo(json.dumps(made))
    elif as_env:
        click.echo(f"TENCENTCLOUD_SECRET_ID={made['SecretId']}")
        click.echo(f"TENCENTCLOUD_SECRET_KEY={made['SecretKey']}")
        click.echo(f"TENCENTCLOUD_REGION={settings.region}")
    else:
        click.echo(f"SecretId:  {made['SecretId']}\nSecretKey: {made['SecretKey']}")


@keys.command("list")
@click.option("--user", required=True, help="The user's name in accounts.toml.")
@click.option("--uin", "owner_uin", help="The account, if not the default one.")
@config_option
@data_option
@json_option
def keys_list(user: str, owner_uin: str | None, as_json: bool, **options: Any) -> None:
    """List a user's access keys, without their secrets."""
    from gateway.administration import list_keys  # noqa: PLC0415

    settings = _settings(**options)
    found = _run_or_explain(
        lambda: list_keys(settings, user=user, owner_uin=owner_uin or settings.root_uin)
    )
    lines = "\n".join(f"{key['SecretId']}  made {key['CreateTime']}" for key in found)
    click.echo(json.dumps(found) if as_json else lines)


@keys.command("delete")
@click.argument("secret_id")
@config_option
@data_option
def keys_delete(secret_id: str, **options: Any) -> None:
    """Remove an access key for good."""
    from gateway.administration import delete_key  # noqa: PLC0415

    settings = _settings(**options)
    if not _run_or_explain(lambda: delete_key(settings, secret_id)):
        click.echo(f"There is no key {secret_id}.", err=True)
        sys.exit(1)


@main.group()
def decisions() -> None:
    """What was decided, and why."""


@decisions.command("show")
@click.argument("request_id")
@config_option
@data_option
@json_option
def decisions_show(request_id: str, as_json: bool, **options: Any) -> None:
    """Show one decision by the RequestId of its call."""
    from gateway.administration import find_decision  # noqa: PLC0415

    settings = _settings(**options)
    found = _run_or_explain(lambda: find_decision(settings, request_id))
    if found is None:
        click.echo(f"No decision with the RequestId {request_id} is recorded.", err=True)
        sys.exit(1)
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else _decision_text(found))


def _decision_text(found: dict[str, Any]) -> str:
    principal = found["Principal"]
    lines = [
        f"{found['Effect']}  {found['Reason']}  {found['Action']}",
        f"  by        {principal['Name']} ({principal['OwnerUin']}/{principal['Uin']})"
        f" from {found['SourceIp']} at {found['Time']}",
        *(f"  on        {resource}" for resource in found["Resources"]),
        *(
            f"  settled   {one['Policy']}/{one['Statement']} (version {one['Version']}):"
            f" {one['Pattern']}"
            for one in found["Determining"]
        ),
    ]
    miss = found["NearestMiss"]
    if miss is not None:
        lines.append(
            f"  nearest   {miss['Policy']}/{miss['Statement']}: its {miss['Element']} is"
            f" {miss['Wanted']}, not {miss['Found'] or 'met'}"
        )
    return "\n".join([*lines, f"  policies  generation {found['Generation']}"])


def _settings(*, config: Path | None, **options: Any) -> Settings:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return replace(load(config), **given)
    except SettingsError as error:
        _misuse(str(error))


def _run_or_explain(function: Callable[[], T]) -> T:
    """Run something; what an operator can mend is said in a line instead of a traceback."""
    from gateway.administration import OPERATOR_ERRORS  # noqa: PLC0415

    try:
        return function()
    except OPERATOR_ERRORS as error:
        _fail(error)
    except BaseExceptionGroup as group:  # what was raised while other tasks were running
        mendable, rest = group.split(OPERATOR_ERRORS)
        if mendable is None or rest is not None:
            raise
        _fail(_first_of(mendable))


def _first_of(error: BaseException) -> BaseException:
    return _first_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _fail(error: BaseException) -> NoReturn:
    click.echo(f"qcs-gateway: {error}", err=True)
    sys.exit(1)


def _misuse(text: str) -> NoReturn:
    click.echo(f"qcs-gateway: {text}", err=True)
    sys.exit(2)
