"""What a web process sets up for itself, once, before its first visitor."""

import ctypes
import resource
import socket
import sys

from app.front import protocol

SEND_BUFFER = 64 * 1024  # bytes the kernel keeps for a client that doesn't read
UNREAD = 10_000  # ms the kernel keeps what a client doesn't take; by default it is a minute and more
SPARE_FILES = 200  # descriptors kept for other things than visitors
SWITCH_INTERVAL = 0.0002  # s a thread may compute before the event loop gets its turn; docs/performance.md has figures
M_MMAP_THRESHOLD = -3  # mallopt(3)
MMAP_FROM = 1024 * 1024  # bytes


def prepare(sockets: list[socket.socket]) -> None:
    """Set up this process, which will serve what comes in on the sockets."""
    for one in sockets:  # connections inherit this
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)
    protocol.FrontProtocol.most_connections = max(
        1, _files_allowed(protocol.MOST_CONNECTIONS + SPARE_FILES) - SPARE_FILES
    )
    sys.setswitchinterval(SWITCH_INTERVAL)
    _give_back_large_blocks()


def _files_allowed(wanted: int) -> int:
    """Have the system allow this process so many open files, if it may have them; return how many it has of those.

    No more than wanted: macOS calls its limit infinite, and refuses to set it so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _give_back_large_blocks() -> None:
    """Make glibc return the 19 MiB that each password hash takes (Argon2), instead of keeping them for each thread.

    By default its threshold for that grows up to 32 MiB with what is freed. Other C libraries don't have this call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, MMAP_FROM)
