"""Error pages: what happened, in plain words, and what to do about it."""

from datetime import UTC, datetime, timedelta

from flask import Flask, Response, current_app, make_response, render_template, request
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed, SecurityError

from app.extensions import sql_reason
from app.redis_client import StoreUnavailableError
from app.sessions import current_session
from app.web.limits import TooManyAttemptsError

RETRY_AFTER = 5  # s; a restarted store is back by then

TITLES = {
    400: "That request can't be understood",
    403: "That isn't yours to do",
    404: "There is nothing here",
    405: "That can't be done here",
    410: "This link doesn't work any more",
    413: "That is too much",
    429: "Too many attempts",
    500: "Something broke on our side",
    503: "Back in a moment",
}
TEXTS = {
    400: "Something in what your browser sent is missing or malformed. Go back, reload the page and try again.",
    403: "You can only change what is your own.",
    404: "The page may have been deleted, or its address mistyped.",
    405: "This address is for a form to be sent to. Go back and use the form.",
    413: "What you sent is larger than anything Pipit takes. Go back and shorten it.",
    500: "We have a note of it. Try again; if it happens again, tell whoever runs this site when it was.",
}


def init_errors(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(InternalServerError, _http_error)
    app.register_error_handler(SecurityError, _unknown_host)
    app.register_error_handler(CSRFError, _form_out_of_date)
    app.register_error_handler(TooManyAttemptsError, _too_many_attempts)
    app.register_error_handler(StoreUnavailableError, _redis_unavailable)
    for error in (OperationalError, InterfaceError, DisconnectionError, PoolTimeoutError):
        app.register_error_handler(error, _sql_unavailable)


def _unknown_host(_error: SecurityError) -> Response:
    text = "This server does not answer to that name. Whoever runs it can add the name to TRUSTED_HOSTS."
    return _page(400, "Unknown host", text)


def _http_error(error: HTTPException) -> Response:
    code = error.code or 500
    if isinstance(error.response, Response):  # a view's own answer, given by abort()
        return error.response
    # A description that a view gave is for people; Werkzeug's own is for developers.
    text = error.description if error.description != type(error).description else None
    response = _page(code, TITLES.get(code, error.name), text or TEXTS.get(code, "Go back and try again."))
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(error.valid_methods)
    return response


def _form_out_of_date(_error: CSRFError) -> Response:
    if current_session().unavailable:  # the token may be good; its session can't be read to tell
        return _redis_unavailable(StoreUnavailableError("the session can't be read"))
    text = (
        "The form you sent was opened too long ago, or in a browser that keeps no cookies. "
        "Go back, reload the page and send it again."
    )
    return _page(400, "This form is out of date", text)


def _too_many_attempts(error: TooManyAttemptsError) -> Response:
    window = error.window
    again = datetime.now(UTC) + timedelta(seconds=window.resets_in)
    response = make_response(
        render_template("errors/429.html", title=TITLES[429], window=window, again=again, kept=_kept()), 429
    )
    response.headers["Retry-After"] = str(window.resets_in)
    response.headers["Cache-Control"] = "no-store"
    return response


def _redis_unavailable(error: StoreUnavailableError) -> Response:
    current_app.logger.warning("503: %s", error)
    return _unavailable("Pipit can't reach its Redis server, which remembers who is logged in.")


def _sql_unavailable(error: Exception) -> Response:
    current_app.logger.error("503: the database can't be used (%s)", sql_reason(error))
    return _unavailable("Pipit can't reach its database.")


def _unavailable(cause: str) -> Response:
    text = f"{cause} Try again in a few seconds; if you were logged in, you still are."
    response = _page(503, TITLES[503], text)
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _page(code: int, title: str, text: str) -> Response:
    """Return an error page; it keeps a post that was being written, so that nobody has to write it twice."""
    page = render_template("errors/error.html", code=code, title=title, text=text, kept=_kept())
    response = make_response(page, code)
    response.headers["Cache-Control"] = "no-store"
    return response


def _kept() -> str | None:
    """Return the post that was sent with the request, if one was, and if it can be read."""
    try:
        return request.form.get("body")
    except HTTPException:  # too large; that can be found out as late as here, on the way to a 404
        return None
