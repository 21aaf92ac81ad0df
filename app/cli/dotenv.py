"""Write .env from .env.example, with a secret key of its own: `make run` does this once, before anything is imported.

Run as a script, it needs nothing but Python. An .env that is there is never touched.
"""

import os
import secrets
import socket
from pathlib import Path

REDIS_PORT = 6379


def write_dotenv(folder: Path) -> None:
    """Write the file, readable by its owner alone. Raises FileExistsError if there is one."""
    text = (folder / ".env.example").read_text()
    text = text.replace("\nSECRET_KEY=\n", f"\nSECRET_KEY={secrets.token_hex(32)}\n")
    port = free_port(REDIS_PORT)
    if port != REDIS_PORT:
        example = f"#REDIS_URL=redis://127.0.0.1:{REDIS_PORT}/0"
        text = text.replace(example, f"REDIS_URL=redis://127.0.0.1:{port}/0")
        print(f"Port {REDIS_PORT} is in use: Pipit's own Redis will listen on {port} (REDIS_URL in .env).")
    with open(os.open(folder / ".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123  # Path.open knows no mode
        file.write(text)


def free_port(wanted: int) -> int:
    """Return `wanted` if nothing listens there, else a port that is free now."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", wanted)) != 0:
            return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    write_dotenv(Path(__file__).resolve().parent.parent.parent)
