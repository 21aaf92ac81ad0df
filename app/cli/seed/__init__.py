"""`flask seed`: fill an empty Pipit with a believable small community, the same each time."""

from collections import Counter
from datetime import UTC, datetime

import click
from flask.cli import with_appcontext
from sqlalchemy import insert, select

from app.cli.seed.town import Community, community
from app.config import is_heroku
from app.extensions import db
from app.models import Follow, Post, PostTag, User
from app.models.accounts import hasher
from app.models.post_text import PostText
from app.models.writes import LATEST_PAGE, write
from app.redis_client import StoreUnavailableError

PASSWORD = "pipit on the fence"  # noqa: S105  # everyone's, which is why this refuses to run on Heroku
CHUNK = 100  # rows an INSERT


@click.command()
@with_appcontext
def seed() -> None:
    """Fill Pipit with a small town: a hundred people, a thousand posts over months, and who follows whom."""
    if is_heroku():
        raise click.ClickException("All seeded accounts share one known password, so this is for laptops only.")
    town = community()
    busiest = Counter(message.author for message in town.messages).most_common(1)[0][0]
    invitation = f"Log in as {busiest}, or as anybody else, with the password “{PASSWORD}”."
    if User.named(busiest):
        click.echo(f"This Pipit is seeded already. {invitation}")
        return
    taken = [person.name for person in town.people if User.named(person.name)]
    if taken:
        raise click.ClickException(f"There are accounts called {', '.join(taken[:3])} already; nothing was written.")
    try:
        with write(LATEST_PAGE()):
            _insert(town)
    except StoreUnavailableError:  # nothing is written yet; a laptop's Redis runs only while Pipit does
        with write():
            _insert(town)
    click.echo(invitation)


def _insert(town: Community) -> None:
    """Insert everything; the commit is the caller's, so that an interrupted seed leaves nothing behind."""
    now = datetime.now(UTC)
    total = len(town.people) + len(town.messages) + len(town.follows)
    with click.progressbar(length=total, label="Seeding") as progress:
        password_hash = hasher.hash(PASSWORD)  # one for all: hashing a hundred would take as many times as long
        joined = now - max(message.age for message in town.messages)
        people = [
            {
                "name": person.name,
                "name_key": person.name.lower(),
                "email": f"{person.name.lower()}@example.org",
                "password_hash": password_hash,
                "created_at": joined,
            }
            for person in town.people
        ]
        db.session.execute(insert(User), people)
        ids = {row.name: row.id for row in db.session.execute(select(User.name, User.id))}
        progress.update(len(people))
        for start in range(0, len(town.messages), CHUNK):
            chunk = town.messages[start : start + CHUNK]
            texts = [PostText.parse(message.body) for message in chunk]
            rows = [
                {"author_id": ids[message.author], "body": text.body, "created_at": now - message.age}
                for message, text in zip(chunk, texts, strict=True)
            ]
            posts = db.session.scalars(insert(Post).returning(Post.id, sort_by_parameter_order=True), rows).all()
            tags = [
                {"post_id": post_id, "tag": tag}
                for post_id, text in zip(posts, texts, strict=True)
                for tag in text.tags
            ]
            if tags:
                db.session.execute(insert(PostTag), tags)
            progress.update(len(chunk))
        for start in range(0, len(town.follows), CHUNK):
            pairs = town.follows[start : start + CHUNK]
            rows = [{"follower_id": ids[a], "followed_id": ids[b], "created_at": now} for a, b in pairs]
            db.session.execute(insert(Follow), rows)
            progress.update(len(pairs))
