"""The floors of the house (docs: the README's picture of app/): an import only ever points down.

The checker reads the source, so that an import inside a function counts as well; one for type checkers alone does not.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import ROOT

# From the top. Who shares a floor may not import each other, except within one package.
FLOORS = (
    ("app",),  # the factory: puts the parts together, so it may import all of them
    ("app.web", "app.cli"),
    ("app.front",),
    ("app.models",),
    ("app.cache", "app.sessions", "app.rate_limit", "app.background", "app.daily_counts", "app.follower"),
    ("app.redis_client", "app.extensions", "app.mail"),
    ("app.redis_primary",),
    ("app.config", "app.costs", "app.fair_queue"),
)
SPEAK_REDIS = {
    "app.redis_client",
    "app.redis_primary",
    "app.sessions",
    "app.cache",
    "app.rate_limit",
    "app.background",  # whether a worker is alive
    "app.daily_counts",
    "app.front.redis_connection",  # the front's own connection
}
REDIS = {"redis", "hiredis"}
SPEAK_SQL = {
    "app.web.health",  # asks whether the database answers
    "app.cli.doctor.facts",  # asks the database for its limits
    "app.cli.seed",  # a thousand rows in few statements
}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.putenv"}
HTTP = {"flask", "werkzeug", "wtforms", "flask_wtf", "flask_session"}
SQL_CALLS = {"execute", "scalar", "scalars", "query"}  # of a session


@dataclass(frozen=True)
class Module:
    """A module of the app, by its dotted name."""

    name: str
    source: str
    is_package: bool = False

    @property
    def part(self) -> str:
        """Return the part of the house that it belongs to, e.g. app.web for app.web.posts."""
        return ".".join(self.name.split(".")[:2])

    def nodes(self) -> Iterator[ast.AST]:
        """Walk the source, past what is only there for type checkers."""
        waiting: list[ast.AST] = [ast.parse(self.source)]
        while waiting:
            node = waiting.pop()
            yield node
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                waiting += node.orelse
            else:
                waiting += ast.iter_child_nodes(node)

    def imports(self, modules: set[str]) -> Iterator[str]:
        """Give the names of the modules it imports; `modules` are those that "from package import …" may mean."""
        for node in self.nodes():
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                package = self._package(node)
                for alias in node.names:
                    submodule = f"{package}.{alias.name}"
                    yield submodule if submodule in modules else package

    def _package(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parents = self.name.split(".")
        base = parents[: len(parents) - node.level + self.is_package]
        return ".".join([*base, node.module] if node.module else base)


def test_an_import_only_ever_points_down(modules: list[Module]) -> None:
    assert broken(modules, {module.name for module in modules}) == []


def test_every_module_stands_on_a_floor(modules: list[Module]) -> None:
    assert {module.part for module in modules} == {part for floor in FLOORS for part in floor}


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("app.models.posts", "from app.web.posts import bp", "app.models.posts imports app.web.posts"),
        ("app.models.posts", "def f():\n    import app.cli.seed", "app.models.posts imports app.cli.seed"),
        ("app.models.posts", "from app import web", "app.models.posts imports app.web"),
        ("app.models.posts", "from .. import web", "app.models.posts imports app.web"),
        ("app.models.posts", "from ..web.posts import bp", "app.models.posts imports app.web.posts"),
        ("app.models.posts", "from app import create_app", "app.models.posts imports app"),
        ("app.cache", "from app.models import Post", "app.cache imports app.models"),
        ("app.cache", "import app.sessions", "app.cache imports app.sessions"),
        ("app.sessions", "from app.rate_limit import Limiter", "app.sessions imports app.rate_limit"),
        ("app.redis_client", "from app.extensions import db", "app.redis_client imports app.extensions"),
        ("app.extensions", "from app.cache import PageCache", "app.extensions imports app.cache"),
        ("app.config", "from app.extensions import db", "app.config imports app.extensions"),
        ("app.web.posts", "from app.cli.seed import PASSWORD", "app.web.posts imports app.cli.seed"),
        ("app.models.posts", "from flask import g", "app.models.posts knows of HTTP: flask"),
        ("app.models.posts", "import werkzeug.exceptions", "app.models.posts knows of HTTP: werkzeug.exceptions"),
        ("app.models.posts", "import redis", "app.models.posts speaks Redis: redis"),
        ("app.web.posts", "from redis.client import Redis", "app.web.posts speaks Redis: redis.client"),
        ("app.front.local_cache", "import hiredis", "app.front.local_cache speaks Redis: hiredis"),
        (
            "app.front.early_responses",
            "from app.web.caching import CachedPages",
            "app.front.early_responses imports app.web.caching",
        ),
        ("app.models.posts", "from app.front.log import output", "app.models.posts imports app.front.log"),
        ("app.web.posts", "from sqlalchemy import func", "app.web.posts speaks SQL: sqlalchemy"),
        ("app.web.posts", "select(Post)", "app.web.posts speaks SQL: select("),
        ("app.web.posts", "sa.select(Post)", "app.web.posts speaks SQL: select("),
        ("app.web.posts", "def f():\n    db.session.execute(q)", "app.web.posts speaks SQL: db.session.execute("),
        ("app.cli.seed2", "db.session.scalars(q)", "app.cli.seed2 speaks SQL: db.session.scalars("),
        ("app.cache", "import os\nos.environ['X']", "app.cache reads the environment"),
        ("app.cache", "import os\nos.getenv('X')", "app.cache reads the environment"),
        ("app.cache", "from os import environ", "app.cache reads the environment"),
        ("app.cli.local", "import os\nread(os.environ)", "app.cli.local reads the environment"),
        ("app", "import os\nConfig.from_environ(os.environ)", "app reads the environment"),
    ],
)
def test_the_checker_sees_what_is_forbidden(name: str, source: str, rule: str) -> None:
    assert broken([Module(name, source, is_package=name == "app")], {"app.web", "app.config"}) == [rule]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("app", "import os\nfrom app.web import init_web\nfrom app.config import Config"),
        ("app.config", "import os\nConfig.from_environ(os.environ)"),
        ("app.web.posts", "from app.web.viewer import viewer\nfrom app.models import Post\nfrom app import config"),
        ("app.web.posts", "from sqlalchemy.exc import OperationalError"),
        ("app.models.posts", "from app.cache import current_cache\nfrom sqlalchemy import select\nselect(Post)"),
        ("app.models.posts", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app.web import posts"),
        ("app.sessions", "from redis import Redis"),
        ("app.front.redis_connection", "import hiredis\nfrom app.redis_client import Store"),
        ("app.front.early_responses", "from app.sessions import Session\nfrom app.front.responses import Response"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(name: str, source: str) -> None:
    assert broken([Module(name, source, is_package=name == "app")], {"app.web", "app.config"}) == []


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    """Give every module of the app."""
    return [read(path) for path in sorted((ROOT / "app").rglob("*.py"))]


def read(path: Path) -> Module:
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    return Module(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package)


def broken(modules: list[Module], names: set[str]) -> list[str]:
    """Return a line for every rule that a module breaks; `names` are those of all modules there are."""
    said: list[str] = []
    for module in modules:
        imports = sorted(set(module.imports(names)))
        said += [f"{module.name} imports {name}" for name in imports if not may_import(module, name)]
        if module.part == "app.models":
            said += [f"{module.name} knows of HTTP: {name}" for name in imports if name.split(".")[0] in HTTP]
        if module.name not in SPEAK_REDIS:
            said += [f"{module.name} speaks Redis: {name}" for name in imports if name.split(".")[0] in REDIS]
        if module.part in ("app.web", "app.cli") and module.name not in SPEAK_SQL:
            said += [f"{module.name} speaks SQL: {spoken}" for spoken in sorted(set(sql(module, imports)))]
        if reads_the_environment(module):
            said.append(f"{module.name} reads the environment")
    return said


def may_import(module: Module, imported: str) -> bool:
    if imported.split(".")[0] != "app":
        return True
    part = ".".join(imported.split(".")[:2])
    return part == module.part or floor_of(part) > floor_of(module.part)


def floor_of(part: str) -> int:
    """Return how far below the roof a part stands; what has no floor yet stands on top, where nobody may import it."""
    return next((number for number, floor in enumerate(FLOORS) if part in floor), 0)


def sql(module: Module, imports: list[str]) -> Iterator[str]:
    """Give what in a module of views or commands is SQL; to catch the errors of SQLAlchemy is not."""
    yield from (name for name in imports if name.split(".")[0] == "sqlalchemy" and name != "sqlalchemy.exc")
    for node in module.nodes():
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, verb = called.rpartition(".")
            if verb == "select":
                yield "select("
            elif owner.split(".")[-1] == "session" and verb in SQL_CALLS:
                yield f"{called}("


def reads_the_environment(module: Module) -> bool:
    """Return whether it looks at the environment; only app.config may."""
    return module.name != "app.config" and any(
        (isinstance(node, ast.Attribute) and ast.unparse(node) in ENVIRONMENT)
        or (
            isinstance(node, ast.ImportFrom)
            and any(f"{node.module}.{alias.name}" in ENVIRONMENT for alias in node.names)
        )
        for node in module.nodes()
    )
