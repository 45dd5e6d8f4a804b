"""The laws of the code, as tests. Every exception is listed here; the lists may only shrink."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

LONG_MODULES = {
    "gateway/batch/datatypes.py",  # declares the wire structs of one API, and computes nothing
}
DECLARATIONS_ONLY = ("gateway/store/migrations/versions/",)  # tables, one after the other
READS_THE_ENVIRONMENT = {
    "gateway/config.py",
    "gateway/batch/executor/__main__.py",  # hands PYTHONPATH on to a copy of itself
}
READS_THE_CLOCK = {"gateway/clock.py"}
DRAWS_AT_RANDOM = {"gateway/ids.py"}

NAMES_THAT_SAY_NOTHING = {
    *("base", "common", "core", "helper", "helpers", "manager", "managers", "misc"),
    *("shared", "util", "utils"),
}
# in pieces, so that this file passes its own test
PLACES_OF_ONE_MACHINE = re.compile(
    r"/wor[k]/(main|shared|\.library)|/roo[t]/\.|/op[t]/wheels|de[b]\.debian\.org"
    r"|py[p]i\.org|pytho[n]hosted\.org|registry\.np[m]js\.org"
)
UNFINISHED = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X])\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def files_of_the_project() -> list[Path]:
    """Every file that is in the repository, or would be with the next commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return sorted({path for path in paths if path.is_file()})


def modules(*folders: str) -> list[str]:
    """The Python files below `folders`, by their path from the root."""
    names = (path.relative_to(ROOT).as_posix() for path in files_of_the_project())
    return [name for name in names if name.endswith(".py") and name.split("/")[0] in folders]


@cache
def syntax(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"))


def functions(module: str) -> Iterator[Function]:
    for node in ast.walk(syntax(module)):
        if isinstance(node, Function):
            yield node


def offenders(breaks: Callable[[ast.AST], bool]) -> set[str]:
    """The modules of the gateway in which some piece of syntax breaks a law."""
    return {name for name in modules("gateway") if any(map(breaks, ast.walk(syntax(name))))}


def is_attribute(node: ast.AST, *names: str) -> bool:
    """Whether `node` is one of the dotted `names`, such as "os.environ"."""
    return isinstance(node, ast.Attribute) and ast.unparse(node).endswith(names)


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    too_long = {
        name
        for name in modules("gateway", "tests")
        if len((ROOT / name).read_text(encoding="utf-8").splitlines()) >= MODULE_LINES_MAX
    }
    assert too_long == LONG_MODULES


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = [
        f"{name}:{function.lineno} {function.name}"
        for name in modules("gateway", "tests")
        if not name.startswith(DECLARATIONS_ONLY)
        for function in functions(name)
        if (function.end_lineno or 0) - function.lineno + 1 >= FUNCTION_LINES_MAX
    ]
    assert too_long == []


def test_every_module_has_a_name_that_says_something() -> None:
    parts = {
        part for name in modules("gateway", "tests") for part in Path(name).with_suffix("").parts
    }
    assert parts & NAMES_THAT_SAY_NOTHING == set()


def test_only_the_settings_read_the_environment() -> None:
    assert offenders(lambda node: is_attribute(node, "os.environ", "os.getenv")) == (
        READS_THE_ENVIRONMENT
    )


def test_only_the_clock_tells_the_time() -> None:
    tells = ("datetime.now", "datetime.utcnow", "date.today", "time.time", "time.time_ns")
    assert offenders(lambda node: is_attribute(node, *tells)) == READS_THE_CLOCK


def test_only_ids_draw_at_random() -> None:
    def draws(node: ast.AST) -> bool:
        if isinstance(node, ast.Import):
            return any(name.name in {"random", "secrets", "uuid"} for name in node.names)
        return isinstance(node, ast.ImportFrom) and node.module in {"random", "secrets", "uuid"}

    assert offenders(draws) == DRAWS_AT_RANDOM


def test_every_task_belongs_to_a_task_group() -> None:
    loose = ("create_task", "ensure_future")
    assert offenders(lambda node: is_attribute(node, *loose)) == set()


def test_nothing_is_left_for_later_in_the_code() -> None:
    assert [path.name for path in files_of_the_project() if found_in(path, UNFINISHED)] == []


def test_no_text_names_a_place_that_only_one_machine_has() -> None:
    found = [path.name for path in files_of_the_project() if found_in(path, PLACES_OF_ONE_MACHINE)]
    assert found == []


def found_in(path: Path, pattern: re.Pattern[str]) -> bool:
    try:
        return pattern.search(path.read_text(encoding="utf-8")) is not None
    except UnicodeDecodeError:  # not text
        return False


def test_every_runtime_dependency_says_why_it_is_there() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    silent = [line for line in block[1].splitlines() if not re.search(r'",\s+# \w', line)]
    assert silent == []


def test_everything_imported_is_a_dependency_that_is_declared() -> None:
    """Or it is gone one day with what needed it too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    installed = importlib.metadata.packages_distributions()
    roots = {root for name in modules("gateway") for root in imported_roots(name)}
    undeclared = {
        root
        for root in roots - sys.stdlib_module_names - {"gateway"}
        if not declared & {canonicalize_name(name) for name in installed.get(root, ())}
    }
    assert undeclared == set()


def imported_roots(module: str) -> Iterator[str]:
    """The first words of the names of what a module imports."""
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_constraints_pin_exactly_and_nothing_but_names_and_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert len(pins()) == len(lines)


def test_everything_that_is_installed_is_pinned_to_the_version_that_is_here() -> None:
    here = {name: importlib.metadata.version(name) for name in sorted(required())}
    assert {name: pins().get(name) for name in here} == here


def pins() -> dict[str, str]:
    """What constraints.txt says: version by name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==") for line in lines)
    return {canonicalize_name(name): version for name, _, version in pairs}


def required() -> set[str]:
    """The names of all distributions that pyproject asks for, directly or through others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [*project["dependency-groups"].values(), project["project"]["dependencies"]]
    waiting = [Requirement(text) for group in groups for text in group if isinstance(text, str)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) not in seen:
                seen.add((requirement.name, extra))
                waiting += required_by(requirement.name, extra=extra)
    return {canonicalize_name(name) for name, _ in seen}


def required_by(name: str, *, extra: str) -> list[Requirement]:
    """What one distribution asks for here, with or without one of its extras."""
    texts = importlib.metadata.requires(name) or []
    asked = [Requirement(text) for text in texts]
    return [r for r in asked if r.marker is None or r.marker.evaluate({"extra": extra})]
