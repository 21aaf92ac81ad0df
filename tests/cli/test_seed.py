"""`flask seed` fills an empty Pipit with the town of Wendbridge: the same one each time, and on a laptop only."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from redis import Redis
from sqlalchemy import func, select

from app.cli.seed import PASSWORD
from app.cli.seed.town import SILENT, wendbridge
from app.config import parse_redis_url
from app.daily_counts import last_days
from app.extensions import db
from app.models import Follow, Post, PostTag, User
from app.models.by_day import joined as joined_lately
from app.models.by_day import published
from app.models.post_text import PostText
from tests.conftest import Visitor


def seed(app: Flask) -> Result:
    return app.test_cli_runner().invoke(args=["seed"])


def rows(app: Flask) -> dict[str, int]:
    """Return how much there is of everything."""
    with app.app_context():
        models = (User, Post, PostTag, Follow)
        return {m.__tablename__: db.session.scalar(select(func.count()).select_from(m)) or 0 for m in models}


def town(app: Flask) -> tuple[object, ...]:
    """Return all there is to read, in the order in which Pipit shows it."""
    with app.app_context():
        people = select(User.id, User.name, User.email).order_by(User.id)
        posts = select(User.name, Post.body).join(Post.author).order_by(Post.id)
        follows = select(Follow.follower_id, Follow.followed_id).order_by(Follow.id)
        listed = tuple(tuple(map(tuple, db.session.execute(query))) for query in (people, posts, follows))
        # Sorted here: the databases don't agree on the order of letters.
        return (*listed, sorted(map(tuple, db.session.execute(select(PostTag.post_id, PostTag.tag)))))


def test_seeding_makes_a_town_that_one_can_read_and_log_in_to(app: Flask, visitor: Visitor) -> None:
    result = seed(app)
    assert result.exit_code == 0
    assert rows(app) | {"post_tags": 0} == {"users": 100, "posts": 1000, "follows": 1200, "post_tags": 0}
    told = re.search(r"Log in as (\w+), who moderates, or as anybody else, with the password “(.+)”\.", result.output)
    assert told
    assert visitor.log_in(told[1], told[2]).status_code == 302
    assert visitor.is_signed_in()
    page = visitor.get("/moderation").text
    assert page.count(">Decide<") == 2
    assert 'class="pinned"' in visitor.get("/").text
    assert 'class="pinned"' in visitor.get(f"/@{told[1]}").text
    newest = wendbridge().messages[-1]
    assert f"/@{newest.author}" in visitor.get("/").get_data(as_text=True)


def test_the_posts_are_as_old_as_they_say_and_their_tags_can_be_looked_up(app: Flask) -> None:
    seed(app)
    with app.app_context():
        times = list(db.session.scalars(select(Post.created_at).order_by(Post.id)))
        assert times == sorted(times)
        wrote = User.id.in_(select(Post.author_id))
        joined = db.session.scalar(select(func.max(User.created_at)).where(wrote))
        assert joined is not None
        assert joined <= times[0]
        assert sum(published(last_days())) > 100
        assert sum(joined_lately(last_days())) == SILENT
        found = Post.all_shown([post.id for post in Post.tagged("wendbirds").items])
        assert found
        assert all("#wendbirds" in post.body.lower() for post in found)


def test_seeding_twice_is_seeding_once(app: Flask) -> None:
    seed(app)
    before = rows(app)
    again = seed(app)
    assert again.exit_code == 0
    assert "This Pipit is seeded already. Log in as " in again.output
    assert PASSWORD in again.output
    assert rows(app) == before


def test_two_pipits_are_seeded_alike(make_app: Callable[..., Flask], sqlite_template: Path, tmp_path: Path) -> None:
    one = make_app()
    shutil.copy(sqlite_template, tmp_path / "other.db")
    other = make_app(database_url=f"sqlite:///{tmp_path / 'other.db'}")
    for app in (one, other):
        assert seed(app).exit_code == 0
    assert town(one) == town(other)


def test_what_was_cached_before_is_not_shown_after(app: Flask, visitor: Visitor, redis: Redis) -> None:
    visitor.get("/")
    assert redis.exists("page:latest")
    seed(app)
    assert not redis.exists("page:latest")
    assert f"/@{wendbridge().messages[-1].author}" in visitor.get("/").get_data(as_text=True)


def test_heroku_is_never_seeded(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNO", "web.1")
    result = seed(app)
    assert result.exit_code == 1
    assert "for laptops only" in result.output
    assert PASSWORD not in result.output
    assert set(rows(app).values()) == {0}


def test_seeding_does_not_need_redis(make_app: Callable[..., Flask]) -> None:
    make_app()
    away = make_app(redis=parse_redis_url("redis://127.0.0.1:1/0"))
    assert seed(away).exit_code == 0
    assert rows(away)["posts"] == 1000


def test_a_pipit_with_somebody_of_the_same_name_in_it_is_left_alone(app: Flask) -> None:
    with app.app_context():
        User.register("OLD_PETE", "pete@example.com", "correct horse battery")
    result = seed(app)
    assert result.exit_code == 1
    assert "accounts called old_pete already; nothing was written" in result.output
    assert rows(app) == {"users": 1, "posts": 0, "post_tags": 0, "follows": 0}


def test_a_seed_that_is_interrupted_leaves_nothing_behind(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PostText.parse
    parsed: list[str] = []

    def parse(text: str) -> PostText:
        parsed.append(text)
        if len(parsed) > 250:
            raise KeyboardInterrupt
        return real(text)

    monkeypatch.setattr(PostText, "parse", parse)
    assert seed(app).exit_code == 1
    assert len(parsed) == 251
    assert set(rows(app).values()) == {0}
