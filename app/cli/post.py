"""`flask post`: remove posts. On Heroku: `heroku run -- flask post remove 4711`."""

import click

from app.cli.sessions import RedisGroup
from app.models import Post


@click.group(cls=RedisGroup)
def post() -> None:
    """Remove posts."""


@post.command()
@click.argument("post_id", metavar="ID", type=click.IntRange(min=1, max=2**63 - 1))
def remove(post_id: int) -> None:
    """Remove the post with this ID, which is the number at the end of its address."""
    found = Post.with_id(post_id)
    if found is None:
        raise click.ClickException(f"There is no post {post_id}.")
    author, body = found.author.name, found.body
    found.author.delete(found)
    click.echo(f"Removed post {post_id} by @{author}: {body!r}")
