"""What is prepared answers as SQLAlchemy does, and leaves to it what it cannot do."""

import gc
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Executable,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError

from gateway.store import Moment, Tx
from gateway.store.prepared import PreparedLine, Shelf
from gateway.store.sqlite import create_sqlite_engine

NOW = datetime(2018, 6, 15, 14, 43, 17, 123_456, tzinfo=UTC)
tables = MetaData()
thing = Table(
    "thing",
    tables,
    Column("number", Integer, primary_key=True),
    Column("kind", String, nullable=False, server_default="plain"),
    Column("done", Boolean),
    Column("body", LargeBinary),
    Column("made_at", Moment),
)
ADD = insert(thing)
ADD_AND_TELL = insert(thing).returning(thing.c.number, thing.c.body, sort_by_parameter_order=True)
ALL = select(thing).order_by(thing.c.number)
AMONG = (
    select(thing.c.number)
    .where(thing.c.number.in_(bindparam("numbers", expanding=True)), thing.c.kind == "plain")
    .order_by(thing.c.number)
)
AMONG_TWICE = select(thing.c.number).where(
    thing.c.number.in_(bindparam("numbers", expanding=True)),
    thing.c.number > bindparam("above"),
    (thing.c.number * 10).not_in(bindparam("numbers", expanding=True)),
)
MADE_AMONG = select(thing.c.number).where(thing.c.made_at.in_(bindparam("moments", expanding=True)))
FINISH = (
    update(thing)
    .where(thing.c.number == bindparam("of_number"), thing.c.done.is_(False))
    .values(done=bindparam("is_done"), made_at=bindparam("now"))
)
RAISE = (
    update(thing)
    .where(thing.c.number == bindparam("of_number"))
    .values(number=thing.c.number + bindparam("by"))
    .returning(thing.c.number, thing.c.made_at)
)
FIRST = select(thing.c.number).order_by(thing.c.number).limit(bindparam("most"))
COUNT = select(func.count()).select_from(thing)
DROP = delete(thing).where(thing.c.number == bindparam("of_number"))


def a_thing(number: int, **members: Any) -> dict[str, Any]:
    return {"number": number, "done": False, "body": b"x\0", "made_at": NOW, **members}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_sqlite_engine(f"sqlite:///{tmp_path / 'things.db'}")
    with engine.connect() as opened:
        tables.create_all(opened)
        yield opened
    engine.dispose()


@pytest.fixture
def line(connection: Connection) -> PreparedLine:
    driver: Any = connection.connection.driver_connection
    return PreparedLine(driver, Shelf(connection.dialect), dialect=connection.dialect)


@pytest.fixture
def tx(connection: Connection, line: PreparedLine) -> Tx:
    """A transaction in which every statement of this file has been run before."""
    many = (ADD, ADD_AND_TELL, ALL, AMONG, AMONG_TWICE, MADE_AMONG)
    for statement in (*many, FINISH, RAISE, FIRST, COUNT, DROP):
        assert line.run(statement, [{}]) is None
    return Tx(connection, line)


def is_prepared(line: PreparedLine, statement: Executable, *rows: dict[str, Any]) -> bool:
    return line.run(statement, rows) is not None


def numbers(tx: Tx) -> Sequence[int]:
    return tx.execute(ALL).scalars().all()


def test_rows_are_what_sqlalchemy_makes_of_them(tx: Tx, connection: Connection) -> None:
    rows = [a_thing(1), a_thing(2, done=None, body=None, made_at=None), a_thing(3, done=True)]
    tx.execute(ADD, rows)
    usual = connection.execute(ALL).all()
    found = tx.execute(ALL).all()
    assert [tuple(row) for row in found] == [tuple(row) for row in usual]
    assert found[0].made_at == NOW
    assert found[0].done is False
    assert found[0].kind == "plain"
    mappings = connection.execute(ALL).mappings()
    assert [dict(row) for row in tx.execute(ALL).mappings()] == [dict(row) for row in mappings]


@pytest.mark.parametrize("count", [1, 2, 3, 31, 32, 33, 700, 2_049])
def test_many_rows_all_arrive_in_their_order(tx: Tx, count: int) -> None:
    rows = [a_thing(number) for number in range(count)]
    for row in rows:
        del row["number"]
    rows = [{**row, "body": str(index).encode()} for index, row in enumerate(rows)]
    assert tx.execute(ADD, rows).rowcount == count
    assert [row.body for row in tx.execute(ALL)] == [row["body"] for row in rows]


@pytest.mark.parametrize("count", [1, 2, 3, 33, 700, 1_201])
def test_many_rows_that_are_added_say_what_the_database_made_of_them(
    tx: Tx, line: PreparedLine, count: int
) -> None:
    tx.execute(ADD, a_thing(40))
    rows = [{"body": str(index).encode()} for index in range(count)]
    found = tx.execute(ADD_AND_TELL, rows)
    assert [tuple(row) for row in found] == [(41 + n, row["body"]) for n, row in enumerate(rows)]
    assert found.rowcount == count
    assert is_prepared(line, ADD_AND_TELL, *rows)


def test_many_changes_that_answer_with_rows_are_left_alone(tx: Tx, line: PreparedLine) -> None:
    tx.execute(ADD, [a_thing(1), a_thing(2)])
    assert not is_prepared(line, RAISE, *({"of_number": n, "by": 5} for n in (1, 2)))
    assert numbers(tx) == [1, 2]


@pytest.mark.parametrize("wanted", [[], [2], [1, 2, 9], [4, 3, 2, 1, 1], list(range(3_000))])
def test_a_list_may_have_any_length(tx: Tx, wanted: list[int]) -> None:
    tx.execute(ADD, [a_thing(number) for number in range(1, 5)])
    found = tx.execute(AMONG, {"numbers": wanted}).scalars().all()
    assert found == sorted({1, 2, 3, 4} & set(wanted))


def test_a_list_may_be_empty_or_stand_in_two_places(tx: Tx, line: PreparedLine) -> None:
    tx.execute(ADD, [a_thing(number) for number in (1, 2, 3, 30)])
    assert is_prepared(line, AMONG, {"numbers": []})
    keys = {"numbers": [1, 2, 3, 30, 99], "above": 1}
    assert is_prepared(line, AMONG_TWICE, keys)
    assert tx.execute(AMONG_TWICE, keys).scalars().all() == [2, 30]
    assert tx.execute(AMONG_TWICE, {**keys, "numbers": []}).scalars().all() == []


def test_a_list_of_values_that_are_stored_otherwise(tx: Tx, line: PreparedLine) -> None:
    tx.execute(ADD, [a_thing(1), a_thing(2, made_at=NOW + timedelta(seconds=1))])
    assert tx.execute(MADE_AMONG, {"moments": [NOW]}).scalars().all() == [1]
    assert not is_prepared(line, MADE_AMONG, {"moments": [NOW]})


def test_a_change_says_how_many_rows_it_changed(tx: Tx) -> None:
    tx.execute(ADD, [a_thing(1), a_thing(2), a_thing(3, done=True)])
    values = [{"of_number": n, "is_done": True, "now": NOW} for n in (1, 2, 3, 4)]
    assert tx.execute(FINISH, values[:1]).rowcount == 1
    assert tx.execute(FINISH, values).rowcount == 1
    assert tx.execute(DROP, {"of_number": 9}).rowcount == 0
    assert tx.execute(COUNT).scalar_one() == 3


def test_a_change_can_answer_with_rows(tx: Tx) -> None:
    tx.execute(ADD, [a_thing(1), a_thing(2)])
    changed = tx.execute(RAISE, {"of_number": 2, "by": 5})
    assert changed.one() == (7, NOW)
    assert tx.execute(RAISE, {"of_number": 2, "by": 5}).one_or_none() is None
    assert numbers(tx) == [1, 7]


def test_a_limit_is_a_value_too(tx: Tx) -> None:
    tx.execute(ADD, [a_thing(number) for number in range(5)])
    for most in (1, 3):
        assert len(tx.execute(FIRST, {"most": most}).all()) == most


def test_errors_are_those_of_sqlalchemy(tx: Tx, connection: Connection) -> None:
    tx.execute(ADD, a_thing(1))
    with pytest.raises(IntegrityError) as refused:
        tx.execute(ADD, [a_thing(2), a_thing(1)])
    with pytest.raises(IntegrityError):
        tx.execute(ADD_AND_TELL, [a_thing(3), a_thing(1)])
    assert numbers(tx) == [1]
    assert "x\\x00" not in str(refused.value), "what was to be stored may be a secret"
    connection.exec_driver_sql("DROP TABLE thing")
    with pytest.raises(OperationalError, match="no such table"):
        tx.execute(COUNT)


def test_a_value_that_is_missing_is_an_error(tx: Tx) -> None:
    with pytest.raises(StatementError):
        tx.execute(FINISH, {"of_number": 1, "is_done": True})
    with pytest.raises(StatementError):
        tx.execute(ADD, [a_thing(1), {"number": 2}])


def test_a_statement_is_prepared_the_second_time_and_forgotten_with_its_end(
    connection: Connection,
) -> None:
    shelf = Shelf(connection.dialect)
    composed = select(thing.c.number).where(thing.c.kind == "plain")
    assert shelf.find(composed, ()) is None
    assert shelf.find(composed, ()) is not None
    assert len(shelf) == 1
    del composed
    gc.collect()
    assert len(shelf) == 0
