"""Error pages: what happened, in plain words, and what to do about it."""

from urllib.parse import urlencode

from flask import Flask, Response, current_app, make_response, render_template, request, url_for
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed, SecurityError

from app.extensions import sql_outage
from app.models import BlockedError
from app.models.pagination import parse_id
from app.redis_client import StoreUnavailableError
from app.sessions import current_session
from app.web.limits import TooManyAttemptsError
from app.web.membership import is_for_members
from app.web.viewer import LoginNeededError, came_from, local_path, signed_in

RETRY_AFTER = 5  # s; a restarted store is back by then
WRITTEN = ("body", "reason", "about", "why")  # the fields for more than a word: nobody should have to write it twice
UNITS = (("second", 1, 60), ("minute", 60, 60), ("hour", 3600, 24))  # each with its seconds, and how many are said

TITLES = {
    400: "That request didn't work",
    403: "You can't do that",
    404: "Page not found",
    405: "This address only takes forms",
    410: "This link doesn't work any more",
    413: "That's too large",
    429: "Too many attempts",
    500: "Something went wrong",
    503: "Back in a moment",
}
TEXTS = {
    400: "Part of what your browser sent is missing or damaged. Go back, reload the page and try again.",
    403: "You can only change what belongs to you.",
    404: "The page may have been deleted, or there's a typo in its address.",
    405: "There's nothing to see at this address. Go back and send the form from there.",
    413: "What you sent is larger than this site accepts. Go back and shorten it.",
    500: "The error has been logged. Please try again. If it keeps happening, tell the people who run this site.",
}


def init_errors(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(InternalServerError, _http_error)
    app.register_error_handler(SecurityError, _unknown_host)
    app.register_error_handler(CSRFError, _form_out_of_date)
    app.register_error_handler(LoginNeededError, _login_needed)
    app.register_error_handler(BlockedError, _blocked)
    app.register_error_handler(TooManyAttemptsError, _too_many_attempts)
    app.register_error_handler(StoreUnavailableError, _redis_unavailable)
    app.register_error_handler(SQLAlchemyError, sql_failed)


def _unknown_host(_error: SecurityError) -> Response:
    text = "This site doesn't go by that name. The people who run it can add the name to TRUSTED_HOSTS."
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
    view = current_app.view_functions.get(request.endpoint or "")
    if is_for_members(view, current_app) and not signed_in():
        return _login_needed(LoginNeededError())
    text = (
        "You opened the form too long ago, or your browser doesn't accept cookies. "
        "Go back, reload the page and send it again."
    )
    return _page(400, "This form is out of date", text)


def _login_needed(_error: LoginNeededError) -> Response:
    title = "Log in to send this" if _written() else "Log in to do this"
    text = "You aren't logged in here any more."
    return _page(403, title, text, login_needed=True, form=came_from())


def _blocked(_error: BlockedError) -> Response:
    return _page(403, TITLES[403], "One of you has blocked the other.")


def cant_see() -> Response:
    """Return what somebody gets in place of a page about a person whom they can't see."""
    text = "You've blocked this person, or they've blocked you. Your settings list the people you've blocked."
    return _page(403, "You can't see this page", text)


def _too_many_attempts(error: TooManyAttemptsError) -> Response:
    seconds = error.window.resets_in
    text = f"To keep everyone safe, there's a limit on how often you can do this. Try again in {_in_words(seconds)}."
    response = _page(429, TITLES[429], text, form=_form_here() or came_from())
    response.headers["Retry-After"] = str(seconds)
    return response


def _in_words(seconds: int) -> str:
    """Return a time to wait, such as "1 second" or "5 hours", rounded up."""
    unit, length = next((name, length) for name, length, most in UNITS if seconds <= length * most)
    count = -(-seconds // length)
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _redis_unavailable(error: StoreUnavailableError) -> Response:
    current_app.logger.warning("503: %s", error)
    return _unavailable("{} can't use its Redis server, which remembers who is logged in.")


def sql_failed(error: SQLAlchemyError) -> Response:
    """Return what visitors get while the database can't be used. Raises the error if that is not the cause."""
    outage = sql_outage(error)
    if outage is None:
        raise error
    current_app.logger.error("503: the database %s", outage)
    return _unavailable("{} can't use its database.")


def _unavailable(cause: str) -> Response:
    cause = cause.format(current_app.config["SITE_NAME"])
    text = f"{cause} Please try again in a few seconds. If you were logged in, you still are."
    response = _page(503, TITLES[503], text)
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _page(code: int, title: str, text: str, *, login_needed: bool = False, form: str | None = None) -> Response:
    """Return an error page; it shows what was written in a form, so that nobody has to write it twice.

    form: where to go back to.
    """
    kept = _written()
    if kept and (login_needed or code not in (403, 404)):  # else it would be refused again
        form = _form_here() or _form_of_post()
    about = {"code": code, "title": title, "text": text, "login_needed": login_needed}
    response = make_response(render_template("errors/error.html", kept=kept, form=form, **about), code)
    response.headers["Cache-Control"] = "no-store"
    return response


def _form_of_post() -> str:
    """Return the address of the form for the post that was sent: below the post it replies to, or on /home."""
    replied_to = parse_id(_sent("reply_to") or "")
    if replied_to is None:
        return url_for("posts.home")
    # Whose post it is takes SQL, which may be away. The permalink redirects to the right name.
    return url_for("posts.permalink", name="someone", post_id=replied_to, _anchor="reply")


def _form_here() -> str | None:
    """Return the address of the form that was sent, which remembers where its sender wants to go; None if unknown."""
    if request.method == "GET":
        return request.full_path.rstrip("?")
    if not request.url_rule or "GET" not in (request.url_rule.methods or ()):
        return None
    destination = local_path(_sent("next"))
    if not destination:
        return request.full_path.rstrip("?")
    return f"{request.path}?{urlencode({'next': destination}, safe='/@')}"


def _written() -> str | None:
    """Return what somebody wrote in a form; None if nothing, or it can't be read."""
    return next((text for text in map(_sent, WRITTEN) if text), None)


def _sent(field: str) -> str | None:
    """Return what was sent in a form's field; None if nothing was, or it can't be read."""
    try:
        return request.form.get(field)
    except HTTPException:  # too large; on the way to a 404, this is the first attempt to read the form
        return None
