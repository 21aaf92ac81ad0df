"""`flask user`: make accounts and let people in, help people with theirs; suspend and delete accounts; make moderators.

On Heroku: `heroku run -- flask user show ada`.
"""

import json
import secrets
from typing import Any, NoReturn

import click
from flask import current_app

from app.cli.common import AS_JSON, REASON, Group, user_named
from app.config import Config
from app.models import Applicant, NameTakenError, Picture, SecondFactor, User
from app.models.accounts import NAME_LENGTH, NAME_PATTERN, RESET_LIFETIME, Counts
from app.models.moderation import COMMAND_LINE, log_lines
from app.models.moderators import is_moderator
from app.sessions import current_interface

SITE = click.option(
    "--site", metavar="URL", help="Where the site is, such as https://example.org; TRUSTED_HOSTS if not given."
)


@click.group(cls=Group)
def user() -> None:
    """See, make, suspend and delete accounts, let people in, make moderators, and help those who can't log in."""


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
@SITE
def add(name: str, site: str | None) -> None:
    """Make an account NAME, whatever REGISTRATION says, and print a link with which its owner chooses a password."""
    if not NAME_PATTERN.fullmatch(name):
        raise click.ClickException(f"A name has up to {NAME_LENGTH} letters from a to z, digits and _.")
    if Applicant.named(name):
        raise click.ClickException(f"@{name} is waiting to be let in: flask user let-in {name}")
    try:
        person = User.register(name, None, secrets.token_urlsafe())
    except NameTakenError:
        raise click.ClickException(f"There is a user named {name!r} already.") from None
    click.echo(f"@{person.name} has an account now.", err=True)
    _print_reset_link(person, site)


@user.command()
@AS_JSON
def waiting(as_json: bool) -> None:
    """List those who ask to join, the longest wait first: name, since when, why."""
    for applicant in Applicant.waiting():
        about = {"name": applicant.name, "asked": applicant.created_at.isoformat(), "why": applicant.why}
        line = f"{applicant.name:<30}  {applicant.created_at:%Y-%m-%d}  {applicant.why}"
        click.echo(json.dumps(about) if as_json else line.rstrip())


@user.command()
@click.argument("name")
def let_in(name: str) -> None:
    """Let NAME in, who asks to join."""
    try:
        person = _applicant(name).let_in()
    except NameTakenError:
        raise click.ClickException("There is an account with that name. You can only turn them away.") from None
    click.echo(f"@{person.name} can log in now." if person else "Somebody else has just decided that.")


@user.command()
@click.argument("name")
def turn_away(name: str) -> None:
    """Delete NAME's request to join. NAME is not told, and may ask again."""
    applicant = _applicant(name)
    applicant.turn_away()
    click.echo(f"@{applicant.name}'s request is deleted.")


@user.command()
@click.argument("name")
@AS_JSON
def show(name: str, as_json: bool) -> None:
    """Show what Pipit knows about the account NAME; posts and followers are counted up to 5,001.

    two_factor is the time at which two-factor authentication was turned on.
    """
    person = user_named(name)
    factor = SecondFactor.of(person.id)
    about = _about(person) | {
        "email": person.email,
        "invited_by": _inviter(person),
        "moderator": is_moderator(person.id),
        **_counts(person),
        "sessions": len(current_interface().active(person.id)),
        "two_factor": factor and factor.created_at.isoformat(),
    }
    lines = [f"{key:<10}  {'-' if value is None else value}" for key, value in about.items()]
    click.echo(json.dumps(about) if as_json else "\n".join(lines))


@user.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3650), help="For so many days; else for good.")
@REASON
def suspend(name: str, days: int | None, reason: str) -> None:
    """Log NAME out everywhere. Their posts stay.

    Until the time is over they can log in only to read why, to export their data and to delete the account.
    """
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
    """Make NAME an ordinary member again."""
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
def remove_picture(name: str) -> None:
    """Remove the picture that NAME has uploaded; the one drawn from the name takes its place."""
    person = user_named(name)
    had_one = bool(person.picture)
    Picture.remove(person)
    click.echo(f"@{person.name} {'no longer has' if had_one else 'has not uploaded'} a picture.")


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
@SITE
def reset_link(name: str, site: str | None) -> None:
    """Print a link with which NAME can choose a new password: once, within an hour.

    Anyone who opens the link can take over the account, so give it to its owner only. A new password ends all
    sessions. Without --site the link leads to the first name in TRUSTED_HOSTS.
    """
    _print_reset_link(user_named(name), site)


def _print_reset_link(person: User, site: str | None) -> None:
    config: Config = current_app.extensions["config"]
    path = f"/reset/{person.reset_token(config.secret_key)}"
    site = site or config.site_url
    click.echo((site or "").rstrip("/") + path)
    if site is None:
        click.echo("Put your site's address in front, or use --site.", err=True)
    if person.is_suspended:
        click.echo(f"@{person.name} is suspended, and can log in only after flask user reinstate.", err=True)
    click.echo(f"The link works once, for {RESET_LIFETIME // 60} minutes. Give it to @{person.name} only.", err=True)


@user.command()
@click.argument("name")
def remove_second_factor(name: str) -> None:
    """Let NAME log in with their password alone, after they lost their phone and their recovery codes.

    Make sure that it is NAME who asks: anyone who knows the password can log in then.
    """
    person = user_named(name)
    if not SecondFactor.turn_off(person.id):
        raise click.ClickException(f"@{person.name} has no second factor.")
    click.echo(f"@{person.name} can log in with their password alone.")


def _about(person: User) -> dict[str, Any]:
    return {
        "id": person.id,
        "name": person.name,
        "joined": person.created_at.isoformat(),
        "suspended": person.suspended_at.isoformat() if person.suspended_at and person.is_suspended else None,
    }


def _inviter(person: User) -> str | None:
    """Return who invited somebody: a name, or the id of a deleted account; None if nobody did."""
    if person.invited_by is None:
        return None
    inviter = User.with_id(person.invited_by)
    return inviter.name if inviter else f"{person.invited_by} (deleted)"


def _applicant(name: str) -> Applicant:
    return Applicant.named(name) or _fail(f"Nobody named {name!r} is waiting to be let in.")


def _fail(message: str) -> NoReturn:
    raise click.ClickException(message)


def _counts(person: User) -> dict[str, int]:
    found = User.with_counts(person.name)
    counts = found[1] if found else Counts(0, 0, 0)
    return {"posts": counts.posts, "followers": counts.followers, "following": counts.following}
