"""Pages that may be some seconds old, because what is on them may come from a follower of the database."""

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from flask.typing import ResponseReturnValue

from app.follower import CATCH_UP, allow_stale_reads
from app.sessions import current_session

P = ParamSpec("P")


def stale_is_harmless(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Let a view that writes nothing find what is on its page in the follower, if there is one (app/follower.py).

    Not so soon after the visitor's own write that they could miss it. It stands below @cached: what fills the cache is
    built by the bare view, from the primary.
    """

    @wraps(view)
    def serve(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        if time.time() > current_session().get("wrote", 0) + CATCH_UP:
            allow_stale_reads()
        return view(*args, **kwargs)

    return serve
