"""Posts: everyone's latest, a permalink, the timeline of those you follow, a hashtag; publishing and deleting."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

from flask import Blueprint, Flask, abort, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from app.cache import PageCache
from app.models import Like, PinnedPost, Post, User
from app.models.conversations import Conversation
from app.models.follows import Person
from app.models.likes import Liked, is_held
from app.models.post_text import LENGTH, tag_key
from app.models.posts import ShownPost
from app.models.writes import (
    ALL_POSTS,
    HOME_PAGE,
    LATEST_PAGE,
    LIKERS_PAGE,
    POST_PAGE,
    TAG_PAGE,
    follows_by,
    likes_by,
    posts_by,
)
from app.web.addresses import address_required
from app.web.caching import cached, request_of_anyone
from app.web.converters import before, id_in_query
from app.web.forms.posts import PostForm, TextForm
from app.web.holes import NotHeldError, fills, fills_from
from app.web.limits import count_action
from app.web.post_html import html_of, listed, listed_below, replies_in_words
from app.web.stale import stale_is_harmless
from app.web.viewer import Viewer, came_from, login_required, note_write, signed_in, viewer

bp = Blueprint("posts", __name__)

TOO_LATE = "A post can be edited for 15 minutes. This one is older, or it has been deleted."


@bp.get("/")
@cached(LATEST_PAGE)
@stale_is_harmless
def latest() -> ResponseReturnValue:
    """Show everyone's latest posts: the page that most visitors see."""
    older = before()
    posts, pinned = listed_below(Post.latest(older), [] if older else PinnedPost.all())
    return render_template("posts/latest.html", posts=posts, pinned=pinned)


@bp.get("/home")
@login_required
@cached(HOME_PAGE)
@stale_is_harmless
def home() -> ResponseReturnValue:
    """Show the posts of those you follow, below a form to write one."""
    return _home(PostForm())


@fills("timeline", changed_by=lambda viewer: (ALL_POSTS, follows_by(viewer.id)))
def timeline(viewer: Viewer) -> dict[str, object]:
    """Return the newest posts of those whom the viewer follows; if there are none, everyone's, and whom to follow."""
    posts = Post.timeline_of(viewer.id)
    people = [] if posts.older else User.to_follow(viewer.id)
    return {"posts": listed(posts if posts.items else Post.latest()), "is_everyones": not posts.items, "people": people}


@fills_from("form_key", posts_by)
def form_key(key: str) -> dict[str, str]:
    """Return a key for the forms to write a post with; after the viewer's next post, forms have another."""
    return {"key": key}


@bp.get("/tags/<tag:tag>")
@cached(TAG_PAGE)
@stale_is_harmless
def tagged(tag: str) -> ResponseReturnValue:
    """Show the posts with a hashtag. Every other spelling of it redirects to the one that tag_key() returns."""
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
    around = Conversation.around(post, id_in_query("after"))
    above = html_of(around.above)  # their numbers would change too many pages
    below = html_of(around.below)
    return _permalink(post, around, Liked.of(post_id), above, below)


def _permalink(
    post: ShownPost, around: Conversation, liked: Liked, above: Sequence[Markup], below: Sequence[Markup]
) -> str:
    return render_template(
        "posts/permalink.html", post=post, liked=liked, conversation=around, above=above, below=below, length=LENGTH
    )


@bp.post("/posts")
@login_required
@address_required
def publish() -> ResponseReturnValue:
    """Publish a post, then show it at the top of its author's timeline; or a reply, and show it in its conversation."""
    form = PostForm()
    count_action("post")
    if not form.validate():
        return _compose(form), 422
    post = viewer().publish(form.text, form.answered, form.form_key.data or "")
    note_write(counts=form.answered is not None)
    flash("Published.", "published")  # the category tells the script that there is no draft any more
    if form.answered is None:
        return redirect(url_for("posts.home"))
    return redirect(url_for("posts.permalink", name=viewer().name, post_id=post.id, _anchor=f"post-{post.id}"))


@bp.get("/posts/<id:post_id>/like")
def log_in_to_like(post_id: int) -> ResponseReturnValue:
    """Send a stranger who clicked on a like button to log in, and then to the post."""
    post = Post.with_id(post_id) or abort(404)
    path = url_for("posts.permalink", name=post.author.name, post_id=post_id)
    if signed_in():
        return redirect(path)
    flash("Log in to like posts.")
    return redirect(url_for("accounts.login", next=path))


@bp.post("/posts/<id:post_id>/like")
@login_required
@address_required
def like(post_id: int) -> ResponseReturnValue:
    """Like a post, and go on reading where its button was."""
    return _like(post_id, User.like)


@bp.post("/posts/<id:post_id>/unlike")
@login_required
def unlike(post_id: int) -> ResponseReturnValue:
    """No longer like a post."""
    return _like(post_id, User.unlike)


def unlike_button_of_old_post(viewer: Viewer, post_id: str) -> dict[str, object] | None:
    """As unlike_button(), for a post that is older than those whose ids are held."""
    return {} if Like.exists(viewer.id, int(post_id)) else None


@fills_from("unlike", likes_by, else_from_sql=unlike_button_of_old_post)
def unlike_button(held: str, post_id: str) -> dict[str, object] | None:
    """Return something if the viewer likes a post: its like button gives way to another one."""
    likes = is_held(held, post_id)
    if likes is None:
        raise NotHeldError
    return {} if likes else None


def init_posts(app: Flask, cache: PageCache) -> None:
    """Keep what each member likes in Redis, and show the cache what pages look like."""
    cache.register_value("likes-by", lambda user_id: Like.held(int(user_id)))
    cache.sample = partial(_sample_page, app)


def _sample_page(app: Flask) -> str:
    """Return the page of a post that is the same in every process: its date and its names are made up."""
    post = ShownPost(
        Person(1, "ada"),
        1,
        "Hello @ada, see https://example.org/ #pipit",
        datetime(2012, 5, 1, tzinfo=UTC),
        edited_at=None,
        answered_id=None,
        reply_to_id=None,
        addressee_id=None,
        addressee=None,
        is_pinned=False,
        people={"ada": "ada"},
    )
    with request_of_anyone(app, "/@ada/1"):
        show_post = app.jinja_env.get_template("_post.html").module.show_post  # type: ignore[attr-defined]
        around = Conversation([], [], after=None, newer=None)
        return _permalink(post, around, Liked([], 0), [], [show_post(post, replies_in_words(1), 1)])


@bp.get("/@<name>/<id:post_id>/likes")
@cached(LIKERS_PAGE)
def likers(name: str, post_id: int) -> ResponseReturnValue:
    """Show who likes a post."""
    post = Post.shown(post_id) or abort(404)
    if post.author.name != name:
        return redirect(url_for("posts.likers", name=post.author.name, post_id=post_id), 301)
    return render_template("posts/likers.html", post=post, people=Like.likers(post_id, before()))


@bp.get("/likes")
@login_required
@stale_is_harmless
def likes() -> ResponseReturnValue:
    """Show the viewer what they like; nobody else can see that list."""
    return render_template("posts/likes.html", posts=listed(Post.liked_by(viewer().id, before())))


@bp.route("/posts/<id:post_id>/edit", methods=["GET", "POST"])
@login_required
def edit(post_id: int) -> ResponseReturnValue:
    """Edit one's own post, as long as it is new; somebody else's is a 403."""
    post = Post.with_id(post_id) or abort(404)
    if post.author_id != viewer().id:
        abort(403)
    path = url_for("posts.permalink", name=viewer().name, post_id=post_id)
    form = TextForm(body=post.body)
    if not form.validate_on_submit():
        if not post.is_editable:
            abort(403, TOO_LATE)
        page = render_template("posts/edit.html", form=form, post=post, path=path, length=LENGTH)
        return page, form.status
    count_action("post")
    if not viewer().edit(post, form.text):
        abort(403, TOO_LATE)
    note_write()
    flash("Saved.", "published")
    return redirect(path)


@bp.post("/posts/<id:post_id>/pin")
@login_required
def pin(post_id: int) -> ResponseReturnValue:
    """Pin one's own post to the top of one's page; somebody else's is a 403."""
    post = Post.with_id(post_id) or abort(404)
    if post.author_id != viewer().id:
        abort(403)
    viewer().pin(post)
    note_write()
    flash("Pinned to the top of your page.")
    return redirect(url_for("people.profile", name=viewer().name))


@bp.post("/posts/<id:post_id>/unpin")
@login_required
def unpin(post_id: int) -> ResponseReturnValue:
    """Unpin one's own post."""
    if viewer().pinned_post_id == post_id:
        viewer().pin(None)
        note_write()
    flash("Unpinned.")
    return redirect(url_for("posts.permalink", name=viewer().name, post_id=post_id))


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


def _like(post_id: int, change: Callable[[User, Post], None]) -> ResponseReturnValue:
    post = Post.with_id(post_id) or abort(404)
    count_action("like")
    page = came_from() or url_for("posts.permalink", name=post.author.name, post_id=post_id)
    change(viewer(), post)
    note_write(counts=True)
    return redirect(f"{page}#post-{post_id}")


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
