"""Liveness and readiness checks, for platforms and monitors: no session, no cache."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait

from flask import Blueprint, Flask, Response, current_app, make_response
from sqlalchemy.exc import SQLAlchemyError

from app.extensions import has_tables, sql_reason
from app.redis_client import Store, StoreUnavailableError, current_store
from app.web.membership import open_to_strangers

log = logging.getLogger(__name__)
bp = Blueprint("health", __name__)

PATIENCE = 1.0  # s both answers together may take
# A thread each, so that a store that hangs can hold up no more than its own checks, however often it is asked after.
checkers = {name: ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"readyz-{name}") for name in ("sql", "redis")}


@bp.get("/healthz")
@open_to_strangers
def alive() -> Response:
    """Answer at all: the process lives, whatever the stores do."""
    return _answer("ok\n", 200)


@bp.get("/readyz")
@open_to_strangers
def ready() -> Response:
    """Answer 200 if SQL has its tables and Redis takes a write, within a second; else 503, and what is wrong."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # Flask's own way, which its types hide
    store = current_store()
    futures = {
        "sql": checkers["sql"].submit(_sql_state, app),
        "redis": checkers["redis"].submit(_redis_state, store),
    }
    wait(futures.values(), timeout=PATIENCE)
    states = {name: _state(future) for name, future in futures.items()}
    status = 200 if set(states.values()) == {"ok"} else 503
    return _answer("".join(f"{name} {state}\n" for name, state in states.items()), status)


def _state(future: Future[str]) -> str:
    if future.done():
        return future.result()
    future.cancel()
    return "does not answer"


def _sql_state(app: Flask) -> str:
    with app.app_context():
        try:
            return "ok" if has_tables() else "is not migrated"
        except SQLAlchemyError as error:
            log.warning("not ready: the database can't be used (%s)", sql_reason(error))
            return "fails"


def _redis_state(store: Store) -> str:
    try:
        store.check()
    except StoreUnavailableError as error:
        log.warning("not ready: Redis can't be used: %s", store.explain(error))
        trouble = store.trouble(error)
        return trouble.state if trouble else "fails"
    return "ok"


def _answer(body: str, status: int) -> Response:
    response = make_response(body, status)
    response.mimetype = "text/plain"
    response.headers["Cache-Control"] = "no-store"
    return response
