"""Feeds: the latest posts for feed readers, as Atom (RFC 4287), of everyone, a person and a hashtag.

A feed is cached as the page is that it belongs to. Its links are absolute where TRUSTED_HOSTS says what the site is
called; else they are relative to where the feed was read, which the RFC allows (section 2).
"""

import re
from datetime import UTC, datetime
from uuid import UUID, uuid5

from flask import Blueprint, abort, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from app.models import Post, User
from app.models.pagination import Pagination
from app.models.post_text import tag_key
from app.models.posts import Listed
from app.models.writes import LATEST_FEED, PROFILE_FEED, TAG_FEED
from app.web.caching import cached
from app.web.membership import site_config

bp = Blueprint("feeds", __name__)

IDS = UUID("590cac3b-cb7a-4e4c-a90a-f2fd73d1fce8")  # the namespace of Pipit's ids; must never change
NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # when an empty feed was updated that belongs to nobody
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


@bp.get("/feed.atom")
@cached(LATEST_FEED)
def latest() -> ResponseReturnValue:
    """Return everyone's latest posts."""
    return _feed(Post.latest(), "Latest posts", _shared_id("latest"), url_for("posts.latest"), url_for("feeds.latest"))


@bp.get("/@<name>/feed.atom")
@cached(PROFILE_FEED)
def profile(name: str) -> ResponseReturnValue:
    """Return a user's latest posts."""
    user = User.named(name) or abort(404)
    if user.name != name:
        return redirect(url_for("feeds.profile", name=user.name), 301)
    page, own = url_for("people.profile", name=name), url_for("feeds.profile", name=name)
    return _feed(Post.by(user.id), f"@{name}", _id(name, user.created_at), page, own, about=user)


@bp.get("/tags/<tag:tag>/feed.atom")
@cached(TAG_FEED)
def tagged(tag: str) -> ResponseReturnValue:
    """Return the latest posts with a hashtag. Every other spelling of it redirects to the one of tag_key()."""
    if tag != tag_key(tag):
        return redirect(url_for("feeds.tagged", tag=tag_key(tag)), 301)
    page, own = url_for("posts.tagged", tag=tag), url_for("feeds.tagged", tag=tag)
    return _feed(Post.tagged(tag), f"#{tag}", _shared_id("tag", tag), page, own)


def _feed(
    listed: Pagination[Listed], title: str, feed_id: str, page: str, own: str, *, about: User | None = None
) -> str:
    """Return a feed of these posts.

    page, own: the paths of the page that shows the same, and of the feed. about: whose posts they are.
    """
    posts = sorted(Post.all_shown([post.id for post in listed.items]), key=lambda post: post.id, reverse=True)
    updated = max((post.edited_at or post.created_at for post in posts), default=about.created_at if about else NEVER)
    xml = render_template(
        "feeds/feed.xml",
        title=title,
        feed_id=feed_id,
        page=page,
        own=own,
        updated=updated,
        about=about and about.id,
        entries=[(_id(post.author.name, post.id, post.created_at), post) for post in posts],
    )
    return NOT_XML.sub("", xml)  # a post may hold U+FFFF, which would break the feed for everyone


def _id(*about: object) -> str:
    """Return an id for what never changes; it outlives a change of the site's address (RFC 4287, section 4.2.6)."""
    return uuid5(IDS, " ".join(map(str, about))).urn


def _shared_id(*about: object) -> str:
    """Return an id for what other sites have as well."""
    config = site_config()
    return _id(config.site_url or config.site_name, *about)
