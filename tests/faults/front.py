"""The front's copies in a process of a test's own: kept true and read from as in a web process, without its server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from app.cache import PageCache
from app.front.local_cache import LocalCache


@asynccontextmanager
async def kept_true(copies: LocalCache) -> AsyncIterator[None]:
    """Keep the copies true until the end of the block."""
    tasks = [asyncio.create_task(for_ever(work)) for work in (copies.link.keep_open, copies.prove_pushes)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        copies.link.close()


async def for_ever(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await work()


async def read(copies: LocalCache, cache: PageCache, threads: ThreadPoolExecutor, name: str) -> tuple[str, bytes]:
    """Return how a page is served, and the page: by the front if it can, else by the cache in a thread.

    It begins as a request does, with a task's first turn: at least one turn of the loop after its bytes came.
    """
    await asyncio.sleep(0)
    responses, missed = copies.get(name), False
    connection = copies.link.connection
    if responses is None and connection:
        found = await copies.look_up(name, connection)
        responses, missed = found.responses, found.missed
    if responses:
        return responses.status, responses.split.page.encoded
    build = partial(cache.get_or_build, name, missed=missed)
    served = await asyncio.get_running_loop().run_in_executor(threads, build)
    return served.status, served.page.encoded
