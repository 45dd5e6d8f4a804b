"""TOML read strictly: every name is expected and of its type, or the file is refused."""

import tomllib
from collections.abc import Collection, Mapping


class TomlRefused(Exception):
    """A file cannot be used; the message says what in it, and why."""


class Table:
    """One table of a file. What is not asked for before `close` is unknown.

    where: how to name this table in a refusal, such as `account 1, user 2`. refusal: its class.
    """

    def __init__(
        self,
        written: Mapping[str, object],
        *,
        where: str,
        refusal: type[TomlRefused] = TomlRefused,
    ) -> None:
        self._written = written
        self._asked: set[str] = set()
        self._refusal = refusal
        self.where = where

    @classmethod
    def read(cls, text: str, *, where: str, refusal: type[TomlRefused] = TomlRefused) -> "Table":
        """Read a whole file."""
        try:
            return cls(tomllib.loads(text), where=where, refusal=refusal)
        except tomllib.TOMLDecodeError as error:
            raise refusal(f"{where}: {error}") from error

    def refused(self, why: str) -> TomlRefused:
        """Make the refusal of something in this table."""
        return self._refusal(f"{self.where}: {why}")

    def has(self, name: str) -> bool:
        """Whether `name` is there."""
        return name in self._written

    def text(self, name: str, *, default: str | None = None) -> str:
        """Take a string; required unless there is a default."""
        value = self._take(name, default)
        if not isinstance(value, str):
            raise self.refused(f"`{name}` must be a string")
        return value

    def choice(self, name: str, allowed: Collection[str], *, default: str | None = None) -> str:
        """Take a string that is one of `allowed`."""
        value = self.text(name, default=default)
        if value not in allowed:
            raise self.refused(f"`{name}` must be one of {', '.join(sorted(allowed))}")
        return value

    def flag(self, name: str) -> bool:
        """Take a truth value; false if it is absent."""
        value = self._take(name, False)
        if not isinstance(value, bool):
            raise self.refused(f"`{name}` must be true or false")
        return value

    def integer(self, name: str, *, default: int, least: int, most: int) -> int:
        """Take a whole number between two bounds."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.refused(f"`{name}` must be a whole number from {least} to {most}")
        return value

    def texts(self, name: str, *, default: tuple[str, ...] | None = ()) -> tuple[str, ...]:
        """Take a list of strings; one string stands for a list of one."""
        value = self._take(name, default)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list | tuple):
            raise self.refused(f"`{name}` must be a list of strings")
        texts = tuple(one for one in values if isinstance(one, str))
        if len(texts) != len(values):
            raise self.refused(f"`{name}` must be a list of strings")
        return texts

    def table(self, name: str, *, optional: bool = False) -> "Table":
        """Take a table."""
        value = self._take(name, {} if optional else None)
        if not isinstance(value, dict):
            raise self.refused(f"`{name}` must be a table")
        return Table(value, where=f"{self.where}, {name}", refusal=self._refusal)

    def tables(self, name: str) -> tuple["Table", ...]:
        """Take a list of tables, `[[name]]`; none is an empty list."""
        value = self._take(name, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.refused(f"`{name}` must be written as [[{name}]]")
        return tuple(
            Table(one, where=f"{self.where}, {name} {number}", refusal=self._refusal)
            for number, one in enumerate(value, start=1)
        )

    def names(self) -> tuple[str, ...]:
        """All names in this table, for one whose names are free."""
        return tuple(self._written)

    def close(self) -> None:
        """Refuse the table if it holds a name nobody asked for."""
        for name in self._written:
            if name not in self._asked:
                raise self.refused(f"`{name}` is unknown")

    def _take(self, name: str, default: object) -> object:
        self._asked.add(name)
        value = self._written.get(name, default)
        if value is None:
            raise self.refused(f"`{name}` is missing")
        return value
