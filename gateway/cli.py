"""The command `qcs-gateway`: parses and prints, nothing else.

Exit codes: 0 yes, 1 no, 2 misuse.
"""

import json
import sys
from typing import Any

import click

from gateway.commands.decisions import decisions
from gateway.commands.doctor import doctor
from gateway.commands.events import events
from gateway.commands.options import (
    config_option,
    data_option,
    json_option,
    run_or_explain,
    settings_from,
)
from gateway.commands.policy import policy


@click.group()
@click.version_option(package_name="qcs-gateway")
def main() -> None:
    """Run batch jobs under CAM policies, and hear what happened."""


main.add_command(decisions)
main.add_command(doctor)
main.add_command(events)
main.add_command(policy)


@main.command()
@config_option
@data_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port of the API.")
@click.option("--management-port", type=click.IntRange(0, 65_535), help="Port of /readyz.")
def serve(**options: Any) -> None:
    """Serve until SIGTERM."""
    settings = settings_from(**options)
    from gateway.app import serve as serve_app  # noqa: PLC0415  # other verbs start without it

    run_or_explain(lambda: serve_app(settings))


@main.command()
@config_option
@data_option
def migrate(**options: Any) -> None:
    """Bring the database to the newest revision."""
    from gateway.administration import migrate_database  # noqa: PLC0415

    settings = settings_from(**options)
    run_or_explain(lambda: migrate_database(settings))
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

    settings = settings_from(**options)
    made = run_or_explain(
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

    settings = settings_from(**options)
    found = run_or_explain(
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

    settings = settings_from(**options)
    if not run_or_explain(lambda: delete_key(settings, secret_id)):
        click.echo(f"There is no key {secret_id}.", err=True)
        sys.exit(1)
