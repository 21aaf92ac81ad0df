"""Statistics of the current request: its id, its cost so far, and what the front has already read for it.

The stores import this module to count their commands and statements; it imports none of them.
"""

import random
import re
import threading
import time
from dataclasses import dataclass
from typing import Any

ENVIRON_KEY = "pipit.request"  # in the WSGI environment: the RequestStats, if the front has begun it
# Request ids that are accepted: Heroku's router passes on what the client sent.
ACCEPTED_ID = re.compile(r"[A-Za-z0-9+/=-]{1,200}")


@dataclass(slots=True)
class RequestStats:
    """What one request has cost, from its first moment to its line in the log.

    The front makes the object. If Flask has to answer, the front hands it on, so that nothing is read twice.
    """

    id: str
    began: float  # s on the monotonic clock
    redis: int = 0  # commands sent
    sql: int = 0  # statements run
    cache_status: str = ""  # how a cached page was served, as a Cache-Status value (RFC 9211)
    session: tuple[str, dict[str, Any] | None] | None = None  # id and content, if the front has read it
    page_missed: bool = False  # the front has asked Redis for the page: it is not cached

    @classmethod
    def begin(cls, given_id: str | None = None) -> "RequestStats":
        """Begin a request under the router's id if that id is safe to log; otherwise make one up."""
        # An id is no secret. os.urandom() would release the GIL, which costs more than everything else here.
        kept = given_id if given_id and ACCEPTED_ID.fullmatch(given_id) else f"{random.getrandbits(128):032x}"
        return cls(kept, time.monotonic())


class _ThisThread(threading.local):
    request = RequestStats("-", 0.0)  # outside of any request: counts that nobody reads


this_thread = _ThisThread()  # .request is set where a thread begins to answer one


def current() -> RequestStats:
    """Return the current request's statistics; outside of a request, a placeholder that nobody reads."""
    return this_thread.request
