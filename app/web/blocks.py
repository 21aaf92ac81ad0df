"""Muting and blocking people, and the list of those whom the viewer has muted or blocked."""

from flask import Blueprint, abort, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from app.cache import PageCache, current_cache
from app.front.responses import HIDDEN_PEOPLE
from app.models import Block, User
from app.models.blocks import block as block_person
from app.models.blocks import end_block, hidden_ids
from app.models.blocks import mute as mute_person
from app.models.writes import hidden_from
from app.rate_limit import account_rules
from app.web.holes import fills_from
from app.web.limits import count_if_possible
from app.web.people import person_named
from app.web.viewer import came_from, login_required, note_write, viewer

bp = Blueprint("blocks", __name__)


@fills_from(HIDDEN_PEOPLE.decode(), hidden_from)
def hidden(held: str) -> dict[str, str] | None:
    """Return whom the viewer does not see."""
    return {"held": held} if held != "|" else None


@fills_from("mute_or_block", hidden_from)
def mute_or_block(held: str, user_id: str, **_about: str) -> dict[str, bool]:
    """Return whether the viewer has muted the user shown on the page."""
    return {"is_muted": int(user_id) in hidden_ids(held)[0]}


def init_blocks(cache: PageCache) -> None:
    """Keep in Redis whom each member does not see."""
    cache.register_value("hidden-from", lambda user_id: Block.held(int(user_id)))


def hidden_from_viewer() -> set[int]:
    """Return the ids of those whom the viewer does not see, for views that filter a list themselves."""
    muted, blocked = hidden_ids(current_cache().value(hidden_from(viewer().id)))
    return muted | blocked


@bp.post("/@<name>/mute")
@login_required
def mute(name: str) -> ResponseReturnValue:
    """No longer see somebody's posts in lists."""
    other = _other(name)
    mute_person(viewer(), other)
    flash(f"You've muted @{other.name}. You won't see their posts in lists.")
    return _back(other)


@bp.post("/@<name>/block")
@login_required
def block(name: str) -> ResponseReturnValue:
    """Have the viewer and somebody else see nothing of each other."""
    other = _other(name)
    block_person(viewer(), other)
    flash(f"You've blocked @{other.name}. You won't see each other any more.")
    return redirect(url_for("blocks.hidden_people"))


@bp.post("/@<name>/unmute")
@login_required
def unmute(name: str) -> ResponseReturnValue:
    """See somebody's posts again."""
    other = _other(name)
    end_block(viewer(), other)
    flash(f"You see @{other.name}'s posts again.")
    return _back(other)


@bp.post("/@<name>/unblock")
@login_required
def unblock(name: str) -> ResponseReturnValue:
    """End a block; neither follows the other again by that."""
    other = _other(name)
    end_block(viewer(), other)
    flash(f"You've unblocked @{other.name}.")
    return redirect(url_for("blocks.hidden_people"))


@bp.get("/settings/blocked")
@login_required
def hidden_people() -> ResponseReturnValue:
    """Show whom the viewer has blocked or muted, each with a button to end that."""
    return render_template("blocks/hidden_people.html", people=Block.by(viewer().id))


def _other(name: str) -> User:
    """Return somebody other than the viewer, whose attempt is counted."""
    other = person_named(name)
    if other.id == viewer().id:
        abort(403, "You can't mute or block yourself.")
    count_if_possible(account_rules("follow", viewer().id))  # a new member, too, may fend off a crowd
    note_write(counts=True)
    return other


def _back(other: User) -> ResponseReturnValue:
    """Return to where the button was: the list, or the person's page."""
    page = came_from()
    here = url_for("blocks.hidden_people")
    return redirect(here if page == here else url_for("people.profile", name=other.name))
