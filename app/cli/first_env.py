"""Write .env from .env.example, with a secret key of its own: `make run` does this once.

An .env that is there is never touched.
"""

import os
import secrets
from pathlib import Path

from app.cli.local import free_port
from app.config import REDIS_PORT, ROOT


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


if __name__ == "__main__":
    write_dotenv(ROOT)
