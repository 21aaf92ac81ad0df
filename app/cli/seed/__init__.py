"""`flask seed`: fill an empty Pipit with a believable small community, the same each time."""

from datetime import UTC, datetime, timedelta

import click
from flask.cli import with_appcontext

from app.cli.common import Command
from app.cli.seed.town import Town, wendbridge
from app.config import is_heroku
from app.extensions import db
from app.models import Block, Follow, Like, Notification, Picture, PinnedPost, Post, PostTag, Report, User
from app.models.accounts import hasher
from app.models.moderators import ModeratorRole
from app.models.notifications import LIKE, REPLY
from app.models.pictures import digest_of
from app.models.post_text import PostText, search_key
from app.models.writes import ALL_POSTS, LATEST_PAGE, PEOPLE_PAGE, TAGS_PAGE, write
from app.redis_client import StoreUnavailableError

REPORTS = ("That's the third time this week. Isn't it spam?", "Not true, and not kind.")
PASSWORD = "pipit on the fence"  # noqa: S105  # everyone's, which is why this refuses to run on Heroku
PICTURED = 3  # every third person has a picture


@click.command(cls=Command)
@with_appcontext
def seed() -> None:
    """Fill Pipit with a small town: a hundred people, a thousand posts over months, likes, and who follows whom."""
    if is_heroku():
        raise click.ClickException("All seeded accounts share one known password, so this is for laptops only.")
    town = wendbridge()
    busiest = town.speakers[0]
    taken = [name for name in town.people if User.named(name)]
    invitation = f"Log in as {busiest}, who moderates, or as anybody else, with the password “{PASSWORD}”."
    if busiest in taken:
        click.echo(f"This Pipit is seeded already. {invitation}")
        return
    if taken:
        raise click.ClickException(f"There are accounts called {', '.join(taken[:3])} already; nothing was written.")
    try:
        with write(LATEST_PAGE(), PEOPLE_PAGE(), TAGS_PAGE(), ALL_POSTS):
            _insert(town)
    except StoreUnavailableError:  # nothing is written yet; a laptop's Redis runs only while Pipit does
        with write():
            _insert(town)
    click.echo(invitation)


def _insert(town: Town) -> None:
    """Insert everything; the commit is the caller's, so that an interrupted seed leaves nothing behind."""
    from app.cli.seed.faces import drawn  # brings Pillow along, which no other command needs

    now = datetime.now(UTC)
    joined = dict.fromkeys(town.people, now - town.messages[0].age)
    active = {name for message in town.messages for name in (message.author, *dict(message.liked_by))}
    for number, name in enumerate(name for name in town.people if name not in active):
        joined[name] = now - timedelta(days=4 * number + 1)  # whoever has done nothing yet has just come
    password_hash = hasher.hash(PASSWORD)  # one for all: hashing a hundred would take as many times as long
    people = {
        name: User(
            name=name,
            name_key=name.lower(),
            email=f"{name.lower()}@example.org",
            password_hash=password_hash,
            created_at=joined[name],
        )
        for name in town.people
    }
    for name, (display_name, line) in town.about.items():
        people[name].display_name, people[name].about = display_name, line
        people[name].display_key = search_key(display_name)
    pictures = {name: drawn(name) for name in town.people[::PICTURED]}
    for name, webp in pictures.items():
        people[name].picture = digest_of(webp)
    db.session.add_all(people.values())
    db.session.flush()  # they have ids now
    db.session.add_all(
        Picture(user_id=people[name].id, digest=digest_of(webp), webp=webp) for name, webp in pictures.items()
    )
    posts: dict[str, Post] = {}
    for message in town.messages:
        text = PostText.parse(message.body)
        post = Post(author_id=people[message.author].id, body=text.body, created_at=now - message.age)
        post.tags = [PostTag(tag=tag) for tag in text.tags]
        posts[message.body] = post
    db.session.add_all(posts.values())
    db.session.flush()
    told: list[Notification] = []
    for message in town.messages:
        post = posts[message.body]
        if message.reply_to:
            post.make_reply_to(posts[message.reply_to])
            if post.addressee_id:
                told.append(_event(REPLY, post.addressee_id, post.author_id, post, post.created_at))
        for name, age in message.liked_by:
            db.session.add(Like(user_id=people[name].id, post_id=post.id))
            told.append(_event(LIKE, post.author_id, people[name].id, post, now - age))
    told.sort(key=lambda event: event.created_at)  # the newest gets the highest id
    db.session.add_all(told)
    for follower, followed in town.follows:
        db.session.add(Follow(follower_id=people[follower].id, followed_id=people[followed].id))
    busiest, muted = people[town.speakers[0]], people[town.speakers[-1]]
    db.session.add(Block(user_id=busiest.id, other_id=muted.id, is_mute=True))
    _moderate(busiest, [posts[message.body] for message in reversed(town.messages)])


def _moderate(moderator: User, newest: list[Post]) -> None:
    """Make somebody a moderator, who has pinned posts, and has reports to decide about."""
    db.session.add(ModeratorRole(user_id=moderator.id))
    to_everyone = [post for post in newest if post.addressee_id is None]
    db.session.add(PinnedPost(post_id=next(post.id for post in to_everyone if "https://" in post.body)))
    moderator.pinned_post_id = next(post.id for post in to_everyone if post.author_id == moderator.id)
    reported = [post for post in newest if post.author_id != moderator.id]
    for post, other, reason in zip(reported[::3], reported[1::3], REPORTS, strict=False):
        reporter_id = other.author_id if other.author_id != post.author_id else moderator.id
        db.session.add(Report(reporter_id=reporter_id, user_id=post.author_id, post_id=post.id, reason=reason))


def _event(kind: str, user_id: int, actor_id: int, post: Post, moment: datetime) -> Notification:
    """Return what tells a user that somebody replied to them with a post, or likes it."""
    return Notification(kind=kind, user_id=user_id, actor_id=actor_id, post_id=post.id, created_at=moment)
