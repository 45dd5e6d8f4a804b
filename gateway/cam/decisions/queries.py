"""Looking decisions up: the last ones that fit a filter, and new ones as they come."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, false, func, select

from gateway.call import Reason
from gateway.cam.decisions.chain import Link
from gateway.cam.tables import ALL_CHAINS, DECISIONS_OF_CHAIN, decision
from gateway.catalog import find_policy_action
from gateway.policy.record import Outcome
from gateway.store import Tx, matches_any

PAGE = 1_000
FOLLOWED_MAX = 10_000
ALLOWING = frozenset({Reason.ROOT, Reason.EXPLICIT_ALLOW})


@dataclass(frozen=True, slots=True)
class Filter:
    """What to look for; what is empty or None is not asked for.

    user: a number is a uin, anything else a name. action: as policies name it, in any letter
    case; `*` is any run of characters. since: included. until: excluded.
    """

    user: str = ""
    action: str = ""
    effect: Outcome | None = None
    reason: Reason | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain as it is stored: its records are those after the anchor, up to the head."""

    id: str
    started_at: datetime
    anchor: Link
    head: Link


def list_decisions(tx: Tx, wanted: Filter, *, limit: int) -> list[bytes]:
    """The last records that fit, as stored, the newest first."""
    newest = (decision.c.decided_at.desc(), decision.c.chain, decision.c.seq.desc())
    statement = _filtered(select(decision.c.record), wanted, dialect=tx.dialect)
    return list(tx.execute(statement.order_by(*newest).limit(limit)).scalars())


def walk_decisions(tx: Tx, wanted: Filter) -> Iterator[bytes]:
    """Every record that fits, as stored, the oldest first; read in pages."""
    statement = _filtered(select(decision.c.record), wanted, dialect=tx.dialect)
    statement = statement.order_by(decision.c.decided_at).execution_options(yield_per=PAGE)
    yield from tx.execute(statement).scalars()


def list_following(tx: Tx, wanted: Filter, *, seen: dict[str, int]) -> list[bytes]:
    """The records that came after those seen, as stored; of each chain FOLLOWED_MAX are looked at.

    seen: the last seq of each chain; it is moved on. Why by chain: a chain is written by one
    process in its order, so nothing can be committed behind what was seen.
    """
    found: list[bytes] = []
    for chain in list_chains(tx):
        after = max(seen.get(chain.id, 0), chain.anchor.seq)
        upto = min(chain.head.seq, after + FOLLOWED_MAX)
        if upto > after:
            found += tx.execute(
                _filtered(select(decision.c.record), wanted, dialect=tx.dialect)
                .where(decision.c.chain == chain.id, decision.c.seq.between(after + 1, upto))
                .order_by(decision.c.seq)
            ).scalars()
        seen[chain.id] = upto
    return found


def list_chains(tx: Tx) -> list[Chain]:
    """Every chain, in the order in which they were begun."""
    return [
        Chain(
            id=row.id,
            started_at=row.started_at,
            anchor=Link(row.anchor_seq, row.anchor_hash),
            head=Link(row.head_seq, row.head_hash),
        )
        for row in tx.execute(ALL_CHAINS)
    ]


def walk_rows(tx: Tx, chain: str) -> Iterator[Any]:
    """Every record of one chain with its columns, in order; read in pages."""
    first = -(2**63)  # where nobody but an intruder puts one
    while True:
        parameters = {"chain": chain, "first_seq": first, "limit": PAGE}
        rows = tx.execute(DECISIONS_OF_CHAIN, parameters).mappings().all()
        yield from rows
        if len(rows) < PAGE:
            return
        first = rows[-1]["seq"] + 1


def _filtered(statement: Select[Any], wanted: Filter, *, dialect: str) -> Select[Any]:
    return statement.where(*_terms(wanted, dialect=dialect))


def _terms(wanted: Filter, *, dialect: str) -> Iterator[ColumnElement[bool]]:
    columns = decision.c
    if not wanted.user.isprintable():  # no name, and it may be what no database takes
        yield false()
    elif wanted.user:
        is_uin = wanted.user.isascii() and wanted.user.isdigit()
        yield (columns.uin if is_uin else columns.name) == wanted.user
    if wanted.action:
        yield _names_action(wanted.action, dialect=dialect)
    effect = wanted.effect
    if wanted.reason is not None:
        yield columns.reason == wanted.reason.value
        # a reason has one effect, and only the effect has an index
        of_reason = Outcome.ALLOW if wanted.reason in ALLOWING else Outcome.DENY
        effect = effect or of_reason
    if effect is not None:
        yield columns.effect == effect.value
    if wanted.since is not None:
        yield columns.decided_at >= wanted.since
    if wanted.until is not None:
        yield columns.decided_at < wanted.until


def _names_action(written: str, *, dialect: str) -> ColumnElement[bool]:
    """Why two ways: what a call decided is recorded in the catalogue's spelling, which the index
    finds; a call on which nothing was decided, in its caller's.
    """
    known = find_policy_action(written)
    if known is not None:
        return decision.c.action == known
    folded = written.removeprefix("name/").lower()
    return matches_any(func.lower(decision.c.action), [folded], dialect=dialect)
