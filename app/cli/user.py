"""`flask user`: help people with their accounts; suspend and delete accounts; say who moderates.

On Heroku: `heroku run -- flask user show ada`.
"""

import json
from typing import Any

import click
from flask import current_app

from app.cli.sessions import AS_JSON, REASON, RedisGroup, user_named
from app.config import Config
from app.models import User
from app.models.accounts import RESET_LIFETIME, Counts
from app.models.moderation import COMMAND_LINE, is_moderator, log_lines
from app.sessions import current_interface


@click.group(cls=RedisGroup)
def user() -> None:
    """See, suspend and delete accounts, make moderators, and reset passwords."""


@user.command("list")
@click.option("--suspended", is_flag=True, help="Only suspended accounts.")
@AS_JSON
def list_(suspended: bool, as_json: bool) -> None:
    """List accounts, the oldest first: id, name, when they joined, when they were suspended."""
    for person in User.everyone(suspended=suspended):
        state = f"  suspended {person.suspended_at:%Y-%m-%d}" if person.suspended_at and person.is_suspended else ""
        line = f"{person.id:>8}  {person.name:<30}  {person.created_at:%Y-%m-%d}{state}"
        click.echo(json.dumps(_about(person)) if as_json else line)


@user.command()
@click.argument("name")
@AS_JSON
def show(name: str, as_json: bool) -> None:
    """Show what Pipit knows about the account NAME; posts and followers are counted up to 5,001."""
    person = user_named(name)
    about = _about(person) | {
        "email": person.email,
        "moderator": is_moderator(person.id),
        **_counts(person),
        "sessions": len(current_interface().active(person.id)),
    }
    lines = [f"{key:<10}  {'-' if value is None else value}" for key, value in about.items()]
    click.echo(json.dumps(about) if as_json else "\n".join(lines))


@user.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3650), help="For so many days; else for good.")
@REASON
def suspend(name: str, days: int | None, reason: str) -> None:
    """Log NAME out everywhere. Until the time is over they can log in only to read why. Their posts stay."""
    person = user_named(name)
    click.echo(COMMAND_LINE.suspend(person, reason, days))
    click.echo(f"@{person.name} is logged out everywhere. Undo: flask user reinstate {person.name}")


@user.command()
@click.argument("name")
@REASON
def reinstate(name: str, reason: str) -> None:
    """End the suspension of NAME."""
    click.echo(COMMAND_LINE.reinstate(user_named(name), reason))


@user.command()
@click.argument("name")
def promote(name: str) -> None:
    """Make NAME a moderator."""
    click.echo(COMMAND_LINE.promote(user_named(name)))


@user.command()
@click.argument("name")
def demote(name: str) -> None:
    """Let NAME be a moderator no longer."""
    click.echo(COMMAND_LINE.demote(user_named(name)))


@user.command()
def log() -> None:
    """Print what moderators and these commands have done, the latest first."""
    before: int | None = None
    while True:
        lines = log_lines(before)
        for line in lines.items:
            click.echo(f"{line.created_at:%Y-%m-%d %H:%M}  {line}")
        before = lines.older
        if before is None:
            return


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask.")
@REASON
def delete(name: str, yes: bool, reason: str) -> None:
    """Delete the account NAME for good, with its posts, follows and sessions."""
    person = user_named(name)
    own_name, counts = person.name, _counts(person)
    if not yes:
        click.echo(f"@{own_name}: {counts['posts']} posts, {counts['followers']} followers. This can't be undone.")
        click.prompt("Type the name to delete the account", type=click.Choice([own_name]), show_choices=False)
    click.echo(COMMAND_LINE.remove(person, reason))


@user.command()
@click.argument("name")
@click.option(
    "--site", metavar="URL", help="Where the site is, such as https://example.org; TRUSTED_HOSTS if not given."
)
def reset_link(name: str, site: str | None) -> None:
    """Print a link with which NAME can choose a new password: once, within an hour.

    Anyone who opens the link can take over the account, so give it to its owner only. A new password ends all
    sessions. Without --site the link leads to the first name in TRUSTED_HOSTS.
    """
    person = user_named(name)
    config: Config = current_app.extensions["config"]
    path = f"/reset/{person.reset_token(config.secret_key)}"
    site = site or config.site_url
    click.echo((site or "").rstrip("/") + path)
    if site is None:
        click.echo("Put your site's address in front, or use --site.", err=True)
    if person.is_suspended:
        click.echo(f"@{person.name} is suspended, and can log in only after flask user reinstate.", err=True)
    click.echo(f"The link works once, for {RESET_LIFETIME // 60} minutes. Give it to @{person.name} only.", err=True)


def _about(person: User) -> dict[str, Any]:
    return {
        "id": person.id,
        "name": person.name,
        "joined": person.created_at.isoformat(),
        "suspended": person.suspended_at.isoformat() if person.suspended_at and person.is_suspended else None,
    }


def _counts(person: User) -> dict[str, int]:
    found = User.with_counts(person.name)
    counts = found[1] if found else Counts(0, 0, 0)
    return {"posts": counts.posts, "followers": counts.followers, "following": counts.following}
