"""Mistakes in policies that a reader overlooks: found before they are merged. Pure."""

import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from gateway.policy.accounts import Account, parse_accounts
from gateway.policy.document import Document, parse
from gateway.policy.limits import excesses
from gateway.policy.lines import declared_line, json_lines, nearest_line
from gateway.policy.lint.attachments import admits_somebody, declaring, is_granting, oddities
from gateway.policy.lint.refusals import Refusal, Statement, refusals
from gateway.policy.lint.rules import ACCOUNTS, RULES, Finding, Rule, Severity
from gateway.policy.lint.statements import Subject, remarks
from gateway.policy.lint.vocabulary import Kind, KnownAction, Vocabulary
from gateway.policy.refusal import PolicySetRefused
from gateway.policy.snapshot import build_snapshot
from gateway.policy.trust import Trust, check_trust, parse_trust

__all__ = ["RULES", "Finding", "Kind", "KnownAction", "Rule", "Severity", "Vocabulary", "lint"]

PRESETS = "presets/"
TESTS = "tests/"
_GOOD: Statement = {"effect": "allow", "action": "*", "resource": "*"}
_GOOD_TRUST: Statement = {"effect": "allow", "action": "sts:AssumeRole", "principal": "*"}


def lint(files: Mapping[str, str], words: Vocabulary, *, has_limits: bool = False) -> list[Finding]:
    """Look through a folder of policies: the texts of its files, by their path inside it.

    A file that is refused is told, and does not keep the others from being looked at.
    has_limits: the vendor's quotas hold.
    """
    accounts, found = _read_accounts(files)
    trusts = {role.trust for account in accounts for role in account.roles}
    declared = declaring(accounts)
    for file, text in files.items():
        if file.endswith(".json") and file not in trusts and not file.startswith(TESTS):
            source = _Source(file, text, declared.get(file, ()))
            found += _document(source, accounts, words)
            found += _unused(source, files)
    uins = {account.uin for account in accounts}
    uins |= {user.uin for account in accounts for user in account.users}
    for account in accounts:
        found += _attachments(account, files)
        found += _roles(account, files, known_uins=uins)
    found += _references(accounts, files)
    if has_limits:
        found += _over_quota(accounts, files)
    return sorted(found, key=lambda one: (one.file, one.line, one.severity.rank, one.id))


@dataclass(frozen=True, slots=True)
class _Source:
    """A document's file. accounts: those that declare it."""

    file: str
    text: str
    accounts: tuple[Account, ...]

    @property
    def is_preset(self) -> bool:
        return self.file.startswith(PRESETS)

    @property
    def name(self) -> str:
        return posixpath.splitext(posixpath.basename(self.file))[0]


def _finding(
    rule: str, file: str, line: int, message: str, *, statement: int = 0, hint: str = ""
) -> Finding:
    return Finding(rule, RULES[rule].severity, file, line, statement, message, hint)


def _refused(file: str, why: PolicySetRefused) -> Finding:
    return _finding("refused", file, 1, str(why))


def _read_accounts(files: Mapping[str, str]) -> tuple[tuple[Account, ...], list[Finding]]:
    try:
        if ACCOUNTS not in files:
            raise PolicySetRefused(f"there is no {ACCOUNTS}")
        accounts = parse_accounts(files[ACCOUNTS])
        if not accounts:
            raise PolicySetRefused(f"{ACCOUNTS} declares no account")
    except PolicySetRefused as error:
        return (), [_refused(ACCOUNTS, error)]
    return accounts, []


def _document(
    source: _Source, accounts: tuple[Account, ...], words: Vocabulary
) -> Iterator[Finding]:
    refused = refusals(source.text, partial(parse, name=source.name), good=_GOOD)
    yield from _refusal_findings(source.file, refused)
    if refused:
        return
    document = parse(source.text, name=source.name, file=source.file)
    lines = json_lines(source.text)
    owners = accounts if source.is_preset else source.accounts
    for statement in document.statements:
        subject = Subject(
            document,
            statement,
            uins=frozenset(account.uin for account in owners),
            is_granting=not source.is_preset and is_granting(source.file, source.accounts),
            words=words,
        )
        for one in remarks(subject):
            line = nearest_line(lines, ("statement", statement.index - 1, *one.path))
            yield _finding(
                one.rule,
                source.file,
                line,
                one.message,
                statement=statement.index,
                hint=one.hint,
            )


def _refusal_findings(file: str, refused: tuple[Refusal, ...]) -> Iterator[Finding]:
    for one in refused:
        message = f"{one.message} ({one.code})"
        yield _finding("refused", file, one.line, message, statement=one.statement)


def _unused(source: _Source, files: Mapping[str, str]) -> Iterator[Finding]:
    is_tested = any(
        f'"{source.file}"' in text for name, text in files.items() if name.startswith(TESTS)
    )
    if not (source.accounts or source.is_preset or is_tested):
        message = "no account and no case of a test uses the document"
        yield _finding("undeclared-document", source.file, 1, message)


def _attachments(account: Account, files: Mapping[str, str]) -> Iterator[Finding]:
    for one in oddities(account):
        line = declared_line(files[ACCOUNTS], one.table, name=one.name, owner_uin=account.uin)
        yield _finding(one.rule, ACCOUNTS, line, one.message)


def _roles(
    account: Account, files: Mapping[str, str], *, known_uins: Collection[str]
) -> Iterator[Finding]:
    for role in account.roles:
        text = files.get(role.trust)
        if text is None:
            continue  # told by _references
        read = partial(_read_trust, role=role.name, known_uins=known_uins)
        refused = refusals(text, read, good=_good_trust(text))
        yield from _refusal_findings(role.trust, refused)
        if not refused and not admits_somebody(read(text), account):
            message = f"nobody who is declared can take on the role `{role.name}`"
            yield _finding("role-for-nobody", role.trust, 1, message)


def _read_trust(text: str, *, role: str, known_uins: Collection[str]) -> Trust:
    trust = parse_trust(text, role=role)
    check_trust(trust, known_uins)
    return trust


def _good_trust(text: str) -> Statement:
    """A good statement; the principal stands in it unless it stands at the top."""
    if ("principal",) not in json_lines(text):
        return _GOOD_TRUST
    return {name: value for name, value in _GOOD_TRUST.items() if name != "principal"}


def _over_quota(accounts: tuple[Account, ...], files: Mapping[str, str]) -> Iterator[Finding]:
    for one in excesses(accounts):
        holder = one.count
        line = declared_line(
            files[ACCOUNTS], holder.table, name=holder.name, owner_uin=one.owner_uin
        )
        yield _finding("over-quota", ACCOUNTS, line, one.message)


def _references(accounts: tuple[Account, ...], files: Mapping[str, str]) -> Iterator[Finding]:
    """What is named and not there, or there twice."""
    named = [one.file for account in accounts for one in account.policies]
    named += [role.trust for account in accounts for role in account.roles]
    for file in dict.fromkeys(named):
        if file not in files:
            yield _refused(ACCOUNTS, PolicySetRefused(f"there is no file {file}"))
    presets = [file for file in files if file.startswith(PRESETS) and file.endswith(".json")]
    names = [_Source(file, "", ()).name for file in presets]
    try:
        build_snapshot(
            accounts,
            presets={name: Document(name, 1, ()) for name in names},
            custom={
                account.uin: {one.name: Document(one.name, 1, ()) for one in account.policies}
                for account in accounts
            },
            trusts={
                account.uin: {role.name: Trust(role.name, ()) for role in account.roles}
                for account in accounts
            },
            generation=0,
        )
    except PolicySetRefused as error:
        yield _refused(ACCOUNTS, error)
