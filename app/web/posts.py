"""Posts: everyone's latest, a permalink, the timeline of those you follow, a hashtag; publishing and deleting."""

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.cache import current_cache
from app.models import Post, User
from app.models.conversations import Conversation
from app.models.pagination import parse_id
from app.models.post_text import LENGTH, tag_key
from app.models.posts import Listed
from app.models.writes import ALL_POSTS, HOME_PAGE, LATEST_PAGE, POST_PAGE, TAG_PAGE, follows_by, posts_by
from app.rate_limit import posting_rules
from app.web.caching import cached
from app.web.forms import PostForm
from app.web.holes import fills
from app.web.limits import count_if_possible
from app.web.post_html import html_of, listed
from app.web.viewer import Viewer, login_required, note_write, signed_in, viewer

bp = Blueprint("posts", __name__)


def before() -> int | None:
    """Return the id in ?before=, or None if it is absent; an invalid id is a 404."""
    return _id_in_query("before")


def _id_in_query(name: str) -> int | None:
    text = request.args.get(name)
    return None if text is None else parse_id(text) or abort(404)


@bp.get("/")
@cached(LATEST_PAGE)
def latest() -> ResponseReturnValue:
    """Show everyone's latest posts: the page that most visitors see."""
    return render_template("posts/latest.html", posts=listed(Post.latest(before())))


@bp.get("/home")
@login_required
@cached(HOME_PAGE)
def home() -> ResponseReturnValue:
    """Show the posts of those you follow, below a form to write one."""
    return _home(PostForm())


@fills("timeline", changed_by=lambda viewer: (ALL_POSTS, follows_by(viewer.id)))
def timeline(viewer: Viewer) -> dict[str, object]:
    """Return the newest posts of those whom the viewer follows; if there are none, everyone's, and whom to follow."""
    posts = Post.timeline_of(viewer.id)
    people = [] if posts.older else User.to_follow(viewer.id)
    return {"posts": listed(posts if posts.items else Post.latest()), "is_everyones": not posts.items, "people": people}


@fills("form_key", changed_by=lambda viewer: (posts_by(viewer.id),))
def form_key(viewer: Viewer) -> dict[str, str]:
    """Return a key for the forms to write a post with; after the viewer's next post, forms have another."""
    return {"key": current_cache().value(posts_by(viewer.id))}


@bp.get("/tags/<tag>")
@cached(TAG_PAGE)
def tagged(tag: str) -> ResponseReturnValue:
    """Show the posts with a hashtag. Every other spelling of it redirects to the one that tag_key() returns."""
    if "\0" in tag:  # PostgreSQL rejects a NUL in any text
        abort(404)
    if tag != tag_key(tag):
        return redirect(url_for("posts.tagged", tag=tag_key(tag), before=before()), 301)
    return render_template("posts/tagged.html", tag=tag, posts=listed(Post.tagged(tag, before())))


@bp.get("/@<name>/<id:post_id>")
@cached(POST_PAGE)
def permalink(name: str, post_id: int) -> ResponseReturnValue:
    """Show one post. The name is for people to read; the id selects the post, and a wrong name redirects."""
    post = Post.shown(post_id) or abort(404)
    if post.author.name != name:
        return redirect(url_for("posts.permalink", name=post.author.name, post_id=post_id), 301)
    around = Conversation.around(post, _id_in_query("after"))
    above = html_of([Listed(one) for one in around.above])  # their numbers of replies would change too many pages
    below = html_of(around.below)
    return render_template(
        "posts/permalink.html", post=post, conversation=around, above=above, below=below, length=LENGTH
    )


@bp.post("/posts")
@login_required
def publish() -> ResponseReturnValue:
    """Publish a post, then show it at the top of its author's timeline; or a reply, and show it in its conversation."""
    form = PostForm()
    count_if_possible(posting_rules(viewer().id))
    if not form.validate():
        return _compose(form), 422
    post = viewer().publish(form.text, form.answered, form.form_key.data or "")
    note_write(counts=form.answered is not None)
    flash("Published.", "published")  # the category tells the script that there is no draft any more
    if form.answered is None:
        return redirect(url_for("posts.home"))
    return redirect(url_for("posts.permalink", name=viewer().name, post_id=post.id, _anchor=f"post-{post.id}"))


@bp.post("/posts/<id:post_id>/delete")
@login_required
def delete(post_id: int) -> ResponseReturnValue:
    """Delete one's own post; somebody else's is a 403."""
    post = Post.with_id(post_id) or abort(404)
    is_reply = post.reply_to_id is not None
    if not viewer().delete(post):
        abort(403)
    note_write(counts=is_reply)
    flash("Deleted.")
    return redirect(url_for("people.profile", name=viewer().name))


def _home(form: PostForm) -> str:
    older, person = before(), signed_in()  # nobody, where the page that everyone shares is built
    posts = listed(Post.timeline_of(person.id, older)) if older and person else None
    return render_template("posts/home.html", form=form, length=LENGTH, posts=posts)


def _compose(form: PostForm) -> str:
    """Return a page with what somebody wrote, and why it can't be published."""
    if form.answered is None:
        return _home(form)
    post = Post.shown(form.answered.id) or abort(404)
    return render_template("posts/reply.html", form=form, post=post, length=LENGTH)
