"""`flask sessions`: see and end sessions from the command line; on Heroku, `heroku run -- flask sessions list`."""

import json
from collections import Counter

import click

from app.cli.common import AS_JSON, Group, user_named
from app.sessions import ActiveSession, current_interface


@click.group(cls=Group)
def sessions() -> None:
    """See who is logged in, and end sessions."""


@sessions.command("list")
@click.option("--user", "name", help="Only this user's sessions.")
@AS_JSON
def list_(name: str | None, as_json: bool) -> None:
    """List sessions: user, handle, device, address, signed in, last seen."""
    places = current_interface().active(user_named(name).id) if name else current_interface().all_active()
    for place in places:
        click.echo(json.dumps(_about(place)) if as_json else _line(place))


@sessions.command()
def count() -> None:
    """Count the sessions, and the users who have them."""
    users = Counter(place.user_id for place in current_interface().all_active())
    click.echo(f"{_count(users.total(), 'session')} of {_count(len(users), 'user')}")


@sessions.command()
@click.argument("name")
@click.option("--session", "handle", help="Only the session with this handle, as `flask sessions list` shows it.")
def revoke(name: str, handle: str | None) -> None:
    """End all sessions of the user NAME, or one of them, at once and on every process."""
    user = user_named(name)
    if handle is None:
        click.echo(f"Ended {_count(current_interface().end_all(user.id), 'session')} of {user.name}.")
    elif current_interface().end_one(user.id, handle):
        click.echo(f"Ended the session {handle} of {user.name}.")
    else:
        raise click.ClickException(f"{user.name} has no session {handle}. `flask sessions list --user {user.name}`")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _about(place: ActiveSession) -> dict[str, str]:
    return {
        "user": place.name,
        "session": place.handle,
        "device": place.device,
        "address": place.address,
        "since": place.since.isoformat(),
        "seen": place.seen.isoformat(),
    }


def _line(place: ActiveSession) -> str:
    moments = f"{place.since:%Y-%m-%d %H:%M}  {place.seen:%Y-%m-%d %H:%M}"
    return f"{place.name:<30}  {place.handle}  {place.device:<28}  {place.address:<39}  {moments}"
