"""What `policy lint` reads and prints."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.cam.identities import PolicyFolder
from gateway.commands.vocabulary import vocabulary
from gateway.config import Settings
from gateway.policy.lint import RULES, Finding, Severity, lint


def read_texts(folder: Path) -> dict[str, str]:
    """The texts of a folder of policies, by their path inside it. Raises OSError."""
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    texts = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".json", ".toml"} and path.is_file():
            texts[path.relative_to(folder).as_posix()] = read_text(path)
    return texts


def read_text(path: Path) -> str:
    """The text of one file. Raises OSError, also for what is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OSError(f"cannot read {path}: {error}") from error


def find(texts: dict[str, str], settings: Settings, *, severity: str) -> list[Finding]:
    """The findings that are at least so severe."""
    least = Severity(severity).rank
    found = lint(texts, vocabulary(), has_limits=PolicyFolder.of(settings).has_limits)
    return [one for one in found if one.severity.rank <= least]


def is_no(found: Sequence[Finding]) -> bool:
    """Whether something has to be mended."""
    return any(one.severity is not Severity.NOTE for one in found)


def text(finding: Finding) -> str:
    """One line, in the form that editors know from compilers, and one for the hint."""
    statement = f"statement {finding.statement}: " if finding.statement else ""
    line = (
        f"{finding.file}:{finding.line}: {finding.severity.value}: {statement}"
        f"{finding.message} [{finding.id}]"
    )
    return f"{line}\n    {finding.hint}" if finding.hint else line


def summary(found: Sequence[Finding], *, files: int) -> str:
    """How many there are of each severity."""
    times = Counter(one.severity for one in found)
    counts = [f"{times[one]} {one.value}{'' if times[one] == 1 else 's'}" for one in Severity]
    return f"{', '.join(counts)} in {files} files"


def public(finding: Finding) -> dict[str, Any]:
    """For machines."""
    return {
        "Id": finding.id,
        "Severity": finding.severity.value,
        "File": finding.file,
        "Line": finding.line,
        "Statement": finding.statement or None,
        "Message": finding.message,
        "Hint": finding.hint,
    }


def rules_text() -> str:
    """The table of rules, each with what provokes it and what does not."""
    return "\n".join(
        f"{rule.severity.value:8}{rule.id}\n    {rule.says}\n"
        f"  bad, {rule.bad.file}:\n{_indented(rule.bad.text)}\n"
        f"  good, {rule.good.file}:\n{_indented(rule.good.text)}\n"
        for rule in RULES.values()
    )


def _indented(example: str) -> str:
    return "\n".join(f"    {line}" for line in example.strip().splitlines())


def public_rules() -> list[dict[str, Any]]:
    """The table of rules, for machines."""
    return [
        {
            "Id": rule.id,
            "Severity": rule.severity.value,
            "Says": rule.says,
            "Bad": {"File": rule.bad.file, "Text": rule.bad.text},
            "Good": {"File": rule.good.file, "Text": rule.good.text},
        }
        for rule in RULES.values()
    ]
