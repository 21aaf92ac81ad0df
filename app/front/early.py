"""Answers before there is a WSGI request: how the web server gets a cached page with the least ado.

To make a WSGI request of what a browser sent, and to write its answer, takes gunicorn longer than Pipit needs to have
that answer. So gunicorn's worker (gunicorn.conf.py) asks for it early, with no more of an environment than the layers
ahead of Flask read. If they have the answer, that was all. If not, the request goes its usual way, and what they found
out goes with it: the session is read once, and the log has one line.
"""

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any

from app.front.answers import Answer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# In the WSGI environment. A layer that finds the first one answers with a list, complete, or raises NotEarlyError.
EARLY = "pipit.early"  # this is asked early
IN_VAIN = "pipit.in_vain"  # this was asked early, and had no answer


class NotEarlyError(Exception):
    """An answer takes the whole request."""


class EarlyAnswers:
    """The outermost WSGI layer, with a second entrance for a server that asks early.

    paths: what it is worth to ask for.
    """

    def __init__(self, application: "WSGIApplication", paths: Container[str]) -> None:
        self.application = application
        self.paths = paths

    def answer(self, environ: "WSGIEnvironment", body: Any) -> Answer | None:
        """Return the answer, its body complete and as long as it says, or None: then the request has to be made.

        environ: REQUEST_METHOD, PATH_INFO, QUERY_STRING, wsgi.url_scheme and the request's headers.
        body: what will be the request's wsgi.input. It is no one else's, so what was found out is kept on it: that
        can't come into another visitor's request, whatever becomes of this one.
        """
        began: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_exc_info: Any) -> Any:
            began.extend((status, headers))

        environ[EARLY] = True
        try:
            content = b"".join(self.application(environ, start_response))
        except NotEarlyError:
            found = {key: value for key, value in environ.items() if key.startswith("pipit.") and key != EARLY}
            body.found_early = {**found, IN_VAIN: True}
            return None
        status, headers = began
        return status, headers, content

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request as the application does."""
        found = getattr(environ["wsgi.input"], "found_early", {})
        environ.update(found)
        found.clear()  # or the body would keep what keeps the body, until Python's garbage collector comes
        return self.application(environ, start_response)
