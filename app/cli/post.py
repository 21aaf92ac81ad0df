"""`flask post`: remove posts, and index them for search. On Heroku: `heroku run -- flask post remove 4711`."""

import click

from app.cli.common import REASON, Group
from app.models import Post
from app.models.moderation import COMMAND_LINE
from app.models.search import index_older_posts


@click.group(cls=Group)
def post() -> None:
    """Remove posts, and index them."""


@post.command(context_settings={"ignore_unknown_options": True})  # so that a negative ID is not taken for an option
@click.argument("post_id", metavar="ID", type=click.IntRange(min=1 - 2**63, max=2**63 - 1))
@REASON
def remove(post_id: int, reason: str) -> None:
    """Remove the post with this ID, which is the number at the end of its address, and tell its author why."""
    found = Post.with_id(post_id)
    if found is None:
        raise click.ClickException(f"There is no post {post_id}.")
    body = found.body
    click.echo(f"{COMMAND_LINE.remove_post(found, reason)} It said: {body!r}")


@post.command()
def index() -> None:
    """Index the posts that search does not find yet, from before there was an index. `flask release` does it too."""
    index_older()


def index_older() -> None:
    """Index older posts until none is left, each batch in a transaction of its own, and say how many there were."""
    count = 0
    while indexed := index_older_posts():
        count += indexed
    if count:
        click.echo(f"Search: {count:,} older posts indexed.")
