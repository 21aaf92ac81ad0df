"""Does a test see it when the code is slightly wrong? `make mutate`; not for CI, it takes an hour.

Cosmic Ray (https://cosmic-ray.readthedocs.io) makes small changes: another comparison, another number, `or` for `and`,
no decorator. Each is tried on its own, in a copy of the project, with the tests of the changed module until the first
one fails. Cosmic Ray's own runner has one test command for everything; here each module has its own. What survives is
printed as a diff. Look at each: either a test is missing, or the change makes no difference that anyone could see.

Not tried are deleted statements, and the Lua scripts, which Python sees as text.
"""

import argparse
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.servers import ROOT, clean_environ

TESTS = {  # which tests are to notice a change of a module
    "app/sessions.py": "tests/test_sessions.py tests/front/test_application.py",
    "app/cache.py": "tests/test_cache.py tests/front/test_local_cache.py",
    "app/rate_limit.py": "tests/test_rate_limit.py",
    "app/web/caching.py": "tests/front/test_page_cache.py tests/web/test_holes.py tests/web/test_posts.py",
    "app/redis_client.py": "tests/test_redis_client.py",
    "app/front/responses.py": "tests/front/test_page_cache.py tests/front/test_application.py",
    "app/front/application.py": "tests/front/test_application.py tests/front/test_security.py",
    "app/front/assets.py": "tests/front/test_assets.py",
    "app/front/bridge.py": "tests/front/test_bridge.py",
    "app/front/local_cache.py": "tests/front/test_local_cache.py",
    "app/front/early_responses.py": "tests/front/test_application.py tests/front/test_local_cache.py "
    "tests/web/test_holes.py",
    "app/front/log.py": "tests/front/test_log.py tests/front/test_application.py",
    "app/front/process.py": "tests/front/test_process.py",
    "app/front/protocol.py": "tests/front/test_framing.py tests/front/test_protocol.py tests/faults/test_shutdown.py "
    "tests/faults/test_slow_clients.py",
    "app/front/redis_connection.py": "tests/front/test_redis_connection.py",
    "app/front/security.py": "tests/front/test_security.py tests/front/test_log.py",
    "app/front/wsgi_middleware.py": "tests/front/test_log.py tests/front/test_security.py",
}
IN_ANNOTATIONS = "BitOr"  # `int | None`: a change there fails when the module is imported, which proves nothing
TIMEOUT = 180  # s; a change may make the tests wait for ever, or the machine is too busy to tell


@dataclass(frozen=True)
class Mutant:
    """One change: the operator's n-th in a module."""

    module: str
    operator: str
    occurrence: int
    line: int

    def code(self, original: str) -> str:
        """Return the module's changed text."""
        changed = mutate_code(original, get_operator(self.operator)(), self.occurrence)
        assert changed is not None
        return str(changed)

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.operator.removeprefix('core/')}"


def mutants(modules: Iterable[str]) -> Iterator[list[Mutant]]:
    """Yield all places that can be changed, each with what can be done there."""
    operators = {name: get_operator(name) for name in operator_names() if IN_ANNOTATIONS not in name}
    for module in modules:
        nodes = list(ast_nodes(get_ast((ROOT / module).read_text())))
        at: dict[tuple[int, int], list[Mutant]] = defaultdict(list)
        for name, operator in operators.items():
            if operator.arguments():
                continue
            positions = [start for node in nodes for start, _ in operator().mutation_positions(node)]
            for occurrence, start in enumerate(positions):
                at[start].append(Mutant(module, name, occurrence, start[0]))
        yield from at.values()


def outcome(mutant: Mutant, folder: Path) -> str:
    """Run the tests in a copy of the project with this change; return what came of it, in a word or two."""
    path = folder / mutant.module
    original = path.read_text()
    path.write_text(mutant.code(original))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *TESTS[mutant.module].split()]
    tests = subprocess.Popen(
        command, cwd=folder, env=clean_environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    try:
        return "survived" if tests.wait(TIMEOUT) == 0 else "killed"
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(tests.pid, signal.SIGKILL)  # and the servers that the tests have started
        tests.wait()
        path.write_text(original)


def diff(mutant: Mutant) -> str:
    """Return the change as a reader wants to see it."""
    original = (ROOT / mutant.module).read_text()
    lines = difflib.unified_diff(original.splitlines(), mutant.code(original).splitlines(), lineterm="", n=1)
    return "\n".join(list(lines)[2:])


def main() -> None:
    """Try a sample of all changes, and say what survives."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="which modules; all by default")
    parser.add_argument("--count", type=int, default=200, help="how many changes to try")
    parser.add_argument("--seed", type=int, default=20240229, help="which ones")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    places = list(mutants(options.modules or TESTS))
    sample = [chance.choice(place) for place in chance.sample(places, min(options.count, len(places)))]
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pipit"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "instance", "results"))
        for number, mutant in enumerate(sample, 1):
            began = time.monotonic()
            came = outcome(mutant, folder)
            outcomes[came] += 1
            print(f"{number:4} {came:9} {time.monotonic() - began:3.0f} s  {mutant}", flush=True)
            if came != "killed":
                print(diff(mutant), flush=True)
    print(f"{len(sample)} changes, in {len(places)} places that can be changed: {dict(outcomes)}")


if __name__ == "__main__":
    main()
