"""Is Pipit alive, and is it ready? For platforms and monitors; no session, no cache, no log-worthy noise."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from flask import Blueprint, Response, current_app, make_response
from sqlalchemy import text

from app.extensions import db
from app.redis_client import current_store

bp = Blueprint("health", __name__)

PATIENCE = 1.0  # s both answers together may take
# A thread each, so that a store that hangs can hold up no more than its own checks, however often it is asked after.
checkers = {name: ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"readyz-{name}") for name in ("sql", "redis")}


@bp.get("/healthz")
def alive() -> Response:
    """Answer at all: the process lives, whatever the stores do."""
    return _answer("ok\n", 200)


@bp.get("/readyz")
def ready() -> Response:
    """Answer 200 if SQL and Redis answer within a second, else 503; the body says which does not."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # Flask's own way, which its types hide

    def sql() -> None:
        with app.app_context():
            db.session.execute(text("SELECT 1"))

    checks: dict[str, Callable[[], object]] = {"sql": sql, "redis": current_store().client.ping}
    futures = {name: checkers[name].submit(check) for name, check in checks.items()}
    wait(futures.values(), timeout=PATIENCE)
    states = {name: _state(future) for name, future in futures.items()}
    status = 200 if set(states.values()) == {"ok"} else 503
    return _answer("".join(f"{name} {state}\n" for name, state in states.items()), status)


def _state(future: Future[object]) -> str:
    if not future.done():
        future.cancel()
        return "does not answer"
    error = future.exception()
    if error:
        current_app.logger.warning("not ready: %s", type(error).__name__)
        return "fails"
    return "ok"


def _answer(body: str, status: int) -> Response:
    response = make_response(body, status)
    response.mimetype = "text/plain"
    response.headers["Cache-Control"] = "no-store"
    return response
