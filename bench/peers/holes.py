"""Pipit with a hole in each post of its cached pages, as a like button would be."""

from jinja2 import ChoiceLoader, DictLoader

from app import create_app
from app.front.application import Front

BUTTON = """<form method="post" action="/posts/{{ post_id }}/like">
<input type="hidden" name="csrf_token" value="{{ csrf_token() }}"><button type="submit">Like</button></form>
"""


def create_front() -> Front:
    """Return Pipit with the holes."""
    app = create_app()
    loader = app.jinja_env.loader
    assert loader is not None
    post, _, _ = loader.get_source(app.jinja_env, "_post.html")
    end = "  </div>\n</article>"
    assert end in post
    with_hole = post.replace(end, '{{ hole("like", post_id=post.id) }}' + end)
    templates = DictLoader({"_post.html": with_hole, "holes/like.html": "{% if viewer %}" + BUTTON + "{% endif %}"})
    app.jinja_env.loader = ChoiceLoader([templates, loader])
    app.extensions["page_cache"].version += "-holes"
    return Front(app)
