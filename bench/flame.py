"""`make profile`: where the time of the hot path goes, as a flame graph in bench/results/hot-path.svg.

py-spy looks a thousand times a second at which line of the worker holds the interpreter, while wrk asks for /.
Time spent waiting for the kernel without it is not in the picture.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import click

from bench import load, machine
from bench.contenders import seeded_pipit
from bench.processes import running

GRAPHS = {"hot-path.svg": False, "hot-path-signed-in.svg": True}
RESULTS = Path(__file__).resolve().parent / "results"
PER_SECOND = 1000  # looks


@click.command()
@click.option("--seconds", type=click.IntRange(1), default=8, show_default=True, help="for each graph")
def main(seconds: int) -> None:
    """Draw a flame graph of an anonymous and of a signed-in visitor's hit."""
    machine.end_cleanly()
    cores = machine.cores()
    machine.prepare(set())
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, machine.pinned_valkey(cores.redis) as valkey:
        site = seeded_pipit(Path(folder), f"redis://127.0.0.1:{valkey.port}/0", cores.server)
        with running(site.server, cores.server, Path(folder)) as pipit:
            for name, signed_in in GRAPHS.items():
                headers = site.member if signed_in else {}
                load.run(cores.load, pipit.port, "/", headers, 1)
                draw(pipit.worker, pipit.port, headers, cores.load, seconds, RESULTS / name)
                click.echo(f"bench/results/{name}")


def draw(worker: int, port: int, headers: dict[str, str], core: int, seconds: int, graph: Path) -> None:
    """Watch the worker under load. Exits with a message if this user may not."""
    command = ["py-spy", "record", "--pid", str(worker), "--duration", str(seconds), "--rate", str(PER_SECOND), "--gil"]
    with subprocess.Popen(
        machine.pinned(core, *command, "--output", graph.name),
        cwd=graph.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as watcher:
        load.run(core, port, "/", headers, seconds + 1)
        said = watcher.communicate()[0].decode()
    if watcher.returncode:
        sys.exit(f"{said}\npy-spy reads another process's memory, which may need root: sudo make profile")


if __name__ == "__main__":
    main()
