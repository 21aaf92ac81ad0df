"""Rules of a connection that no client sees within a test. test_framing.py and tests/faults have the others."""

import pytest

from app.front.protocol import KEEPALIVE_TIMEOUT
from tests.serving import FrontServer

ROUTERS_KEEPALIVE = 90  # s; Heroku's


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def test_an_idle_connection_is_kept_longer_than_the_router_keeps_it(front: FrontServer) -> None:
    """Otherwise the router may send a request on a connection that Pipit is just closing."""
    front.ask("/healthz")
    (connection,) = front.connections
    left = front.on_loop(lambda: connection._deadline - connection.loop.time())
    assert ROUTERS_KEEPALIVE < left <= KEEPALIVE_TIMEOUT


def test_requests_are_counted_for_the_servers_max_requests(front: FrontServer) -> None:
    for _ in range(3):
        front.ask("/healthz")
    assert front.on_loop(lambda: front.total_requests) == 3
