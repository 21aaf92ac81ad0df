"""Settings of a web process that are made once, before its first request."""

import ctypes
import gc
import resource
import socket
import sys

from app.front import protocol

SEND_BUFFER = 64 * 1024  # bytes the kernel keeps for a client that doesn't read
UNREAD = 10_000  # ms the kernel keeps what a client doesn't take; by default it is a minute and more
SPARE_FILES = 200  # descriptors kept for anything but connections of visitors
SWITCH_INTERVAL = 0.0002  # s a thread may compute before the event loop gets its turn; docs/performance.md has figures
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # mallopt(3)
MMAP_FROM = 1024 * 1024  # bytes
ARENAS = 2  # of glibc's heap, not one a thread: each keeps what was freed in it. Python's lock lets one thread use them


def prepare(sockets: list[socket.socket]) -> None:
    """Set up this process, which will serve the connections to these sockets."""
    for one in sockets:  # connections inherit this
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)
    protocol.FrontProtocol.most_connections = max(
        1, _files_allowed(protocol.MOST_CONNECTIONS + SPARE_FILES) - SPARE_FILES
    )
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()  # what is loaded by now stays: a collection that looks at all of it would take 40 ms
    _give_memory_back()


def _files_allowed(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted`, as far as the system lets it; return the limit.

    Never asks for more: macOS reports an infinite limit, but refuses to set one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _give_memory_back() -> None:
    """Make glibc return the 19 MiB that each password hash takes (Argon2), and keep less of what threads have freed.

    By default glibc raises its threshold up to 32 MiB as large blocks are freed. Other C libraries have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, MMAP_FROM)
        mallopt(M_ARENA_MAX, ARENAS)
