"""Finding: posts and people by what is typed, a directory of the people here, the hashtags in use lately."""

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from app.models import SearchError, SearchQuery
from app.models.post_text import CONTROL
from app.models.search import LENGTH, everyone, tags_in_use
from app.models.writes import PEOPLE_PAGE, TAGS_PAGE
from app.rate_limit import searching_rules
from app.web.caching import cached
from app.web.converters import before
from app.web.limits import count_if_possible
from app.web.post_html import listed
from app.web.stale import stale_is_harmless
from app.web.viewer import signed_in

bp = Blueprint("search", __name__)


@bp.get("/search")
@stale_is_harmless
def search() -> ResponseReturnValue:
    """Show the posts and people that are found, below a form; only the form, and how it is used, if nothing is typed.

    It is not cached: hardly anybody asks the same.
    """
    typed, older = CONTROL.sub(" ", request.args.get("q", "")).strip(), before()
    if not typed:
        return _page()
    person = signed_in()
    count_if_possible(searching_rules(person.id if person else None, request.remote_addr or ""))
    try:
        query = SearchQuery.parse(typed)
        posts = listed(query.posts(older))
    except SearchError as error:
        return _page(typed=typed[:LENGTH], error=str(error)), 422
    return _page(typed=typed, posts=posts, people=[] if older else query.people())


@bp.get("/people")
@cached(PEOPLE_PAGE)
def people() -> ResponseReturnValue:
    """Show everyone who has an account."""
    return render_template("search/people.html", people=everyone(before()), length=LENGTH)


@bp.get("/tags")
@cached(TAGS_PAGE)
@stale_is_harmless
def tags() -> ResponseReturnValue:
    """Show the hashtags in use lately."""
    return render_template("search/tags.html", tags=tags_in_use(before()))


def _page(typed: str = "", **found: object) -> str:
    return render_template("search/search.html", length=LENGTH, typed=typed, **found)
