"""The issuers of bearer tokens that an operator trusts, as a TOML file declares them.

[[issuer]]
name = "https://login.example"      # the `iss` claim
algorithm = "ES256"                 # RS256, ES256, EdDSA or HS256
key_file = "login.example.pem"      # beside this file: PEM, a JSON web key set, or a secret;
                                    # one line end after a secret is no part of it
audience = "qcs-gateway"
owner_uins = ["100000000001"]       # the accounts it may speak for
max_lifetime_s = "3600"             # optional
"""

from pathlib import Path

from gateway.authn.jwt import LIFETIME_S_MAX, Algorithm, Issuer
from gateway.config import SettingsError
from gateway.strict_toml import Table, TomlRefused


def read_issuers(path: Path) -> tuple[Issuer, ...]:
    """Read the file and the keys it names. Raises SettingsError, naming what is wrong."""
    try:
        file = Table.read(path.read_text(encoding="utf-8"), where=path.name)
        tables = file.tables("issuer")
        file.close()
        return tuple(_read_issuer(table, folder=path.parent) for table in tables)
    except (OSError, UnicodeDecodeError, TomlRefused) as error:
        raise SettingsError(f"jwt_issuers: {error}") from error


def _read_issuer(table: Table, *, folder: Path) -> Issuer:
    algorithms = {algorithm.value: algorithm for algorithm in Algorithm}
    lifetime = table.text("max_lifetime_s", default=str(LIFETIME_S_MAX))
    owner_uins = frozenset(table.texts("owner_uins", default=None))
    if not (lifetime.isascii() and lifetime.isdigit() and int(lifetime) > 0):
        raise table.refused("`max_lifetime_s` must be a number of seconds")
    if not owner_uins:
        raise table.refused("`owner_uins` names no account")
    algorithm = algorithms[table.choice("algorithm", algorithms)]
    key = (folder / table.text("key_file")).read_text(encoding="utf-8")
    issuer = Issuer(
        name=table.text("name"),
        algorithm=algorithm,
        # a secret counts byte by byte, and editors and `echo` end it with a line end
        key=key.removesuffix("\n") if algorithm is Algorithm.HS256 else key,
        audience=table.text("audience"),
        owner_uins=owner_uins,
        max_lifetime_s=int(lifetime),
    )
    table.close()
    return issuer
