"""`flask user`: help people with their accounts; suspend and delete accounts.

On Heroku: `heroku run -- flask user show ada`.
"""

import json
from datetime import datetime
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from app.cli.sessions import AS_JSON, needs_redis, user_named
from app.config import Config
from app.models import User
from app.models.accounts import RESET_LIFETIME, Counts
from app.sessions import current_interface


@click.group()
def user() -> None:
    """See, suspend and delete accounts, and help people back in."""


@user.command("list")
@click.option("--suspended", is_flag=True, help="Only suspended accounts.")
@AS_JSON
@with_appcontext
def list_(suspended: bool, as_json: bool) -> None:
    """List accounts, the oldest first: id, name, when they joined, when they were suspended."""
    for person in User.everyone(suspended=suspended):
        if as_json:
            click.echo(json.dumps(_about(person)))
        else:
            state = f"suspended {_day(person.suspended_at)}" if person.suspended_at else ""
            click.echo(f"{person.id:>8}  {person.name:<30}  {_day(person.created_at)}  {state}".rstrip())


@user.command()
@click.argument("name")
@AS_JSON
@with_appcontext
@needs_redis
def show(name: str, as_json: bool) -> None:
    """Show what Pipit knows about the account NAME; posts and followers are counted up to 5,001."""
    person = user_named(name)
    about = _about(person) | {
        "email": person.email,
        **_counts(person),
        "sessions": len(current_interface().active(person.id)),
    }
    if as_json:
        click.echo(json.dumps(about))
        return
    for key, value in about.items():
        click.echo(f"{key:<10}  {'-' if value is None else value}")


@user.command()
@click.argument("name")
@with_appcontext
@needs_redis
def suspend(name: str) -> None:
    """Log NAME out everywhere and stop them from logging in. Their posts stay."""
    person = user_named(name)
    since = person.suspended_at
    person.suspend()
    if since:
        click.echo(f"@{person.name} has been suspended since {_day(since)}. Logged out everywhere once more.")
    else:
        click.echo(f"@{person.name} is suspended and logged out everywhere. Undo: flask user reinstate {person.name}")


@user.command()
@click.argument("name")
@with_appcontext
def reinstate(name: str) -> None:
    """Let NAME log in again."""
    person = user_named(name)
    if not person.suspended_at:
        click.echo(f"@{person.name} is not suspended.")
        return
    person.reinstate()
    click.echo(f"@{person.name} can log in again.")


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask.")
@with_appcontext
@needs_redis
def delete(name: str, yes: bool) -> None:
    """Delete the account NAME for good, with its posts, follows and sessions."""
    person = user_named(name)
    counts = _counts(person)
    if not yes:
        click.echo(f"@{person.name}: {counts['posts']} posts, {counts['followers']} followers. This can't be undone.")
        click.prompt("Type the name to delete the account", type=click.Choice([person.name]), show_choices=False)
    gone = person.name
    person.delete_account()
    click.echo(f"@{gone} is deleted, with {counts['posts']} posts.")


@user.command()
@click.argument("name")
@click.option(
    "--site", metavar="URL", help="Where the site is, such as https://example.org; TRUSTED_HOSTS if not given."
)
@with_appcontext
def reset_link(name: str, site: str | None) -> None:
    """Print a link with which NAME can choose a new password: once, within an hour.

    Give it to nobody else: whoever opens it has the account. A new password ends all sessions. Without --site the
    link is to the first name in TRUSTED_HOSTS.
    """
    person = user_named(name)
    config: Config = current_app.extensions["config"]
    path = f"/reset/{person.reset_token(config.secret_key)}"
    if site is None and config.trusted_hosts:
        site = f"https://{config.trusted_hosts[0].lstrip('.')}"
    click.echo((site or "").rstrip("/") + path)
    if site is None:
        click.echo("Put your site's address in front of it, or use --site.", err=True)
    if person.suspended_at:
        click.echo(f"@{person.name} is suspended, and can log in only after flask user reinstate.", err=True)
    click.echo(f"The link works once, for {RESET_LIFETIME // 60} minutes. Give it to @{person.name} only.", err=True)


def _about(person: User) -> dict[str, Any]:
    return {
        "id": person.id,
        "name": person.name,
        "joined": person.created_at.isoformat(),
        "suspended": person.suspended_at and person.suspended_at.isoformat(),
    }


def _counts(person: User) -> dict[str, int]:
    found = User.with_counts(person.name)
    counts = found[1] if found else Counts(0, 0, 0)
    return {"posts": counts.posts, "followers": counts.followers, "following": counts.following}


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
