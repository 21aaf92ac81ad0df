"""Exports: all that is one person's own, as a ZIP. docs/your-data.md describes its files.

Each list is written PER_FILE rows at a time, to a file of JSON and to a page of HTML. So exporting or importing
a prolific member's posts takes no more memory than anyone else's.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from tempfile import TemporaryFile
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from sqlalchemy import BigInteger, Row, Select, bindparam, func, select

from app.extensions import db
from app.models.accounts import User
from app.models.blocks import Block
from app.models.follows import FOLLOW, people_table
from app.models.joining import Invitation
from app.models.likes import LIKE
from app.models.moderation import Report
from app.models.notifications import KINDS
from app.models.pagination import LARGEST_ID
from app.models.pictures import Picture
from app.models.posts import POST
from app.models.second_factor import SecondFactor
from app.models.transfers import EXPORT, LARGEST_FILE, LostClaimError, Transfer, TransferError
from app.models.writes import write
from app.sessions import current_interface

FORMAT, VERSION = "pipit-export", 1  # another number when this Pipit's imports could not read it
MANIFEST, PICTURE = "pipit.json", "picture.webp"
PER_FILE = 200  # rows; one step of the work writes them
TOO_LARGE = f"Your export would have more than {LARGEST_FILE // 2**20} MB. Ask the people who run this site."
USER_ID, AFTER = bindparam("user_id", type_=BigInteger), bindparam("after", type_=BigInteger)

Draw = Callable[..., str]  # returns a page, given the name of its template and what it shows


@dataclass(frozen=True)
class Site:
    """Where an export comes from."""

    name: str
    url: str | None  # without a slash at the end; None if the site does not know it

    def link(self, *parts: object) -> str | None:
        """Return the URL of somebody's page, given the name, or of a post, given its author's name and its id."""
        return self.url and f"{self.url}/@{'/'.join(map(str, parts))}"


@dataclass(frozen=True)
class Listing:
    """A list in an export, oldest first."""

    query: Select[Any]  # of USER_ID; its first column is an id, in whose order the list is read
    item: Callable[[Any, str, Site], dict[str, Any]]  # what is said of a row, given the owner's name and the site

    def count(self, user_id: int) -> int:
        """Return how many rows a user's list has."""
        return db.session.scalar(select(func.count()).select_from(self.query.subquery()), {"user_id": user_id}) or 0

    def after(self, key: int, user_id: int) -> list[Row[Any]]:
        """Return the next PER_FILE rows."""
        column = self.query.selected_columns[0]
        query = self.query.where(column > AFTER).order_by(column).limit(PER_FILE)
        return list(db.session.execute(query, {"user_id": user_id, "after": key}))


def start_export(user: User) -> None:
    """Have an export of all that is a user's own made in the background. Raises UnderWayError."""
    Transfer.start(user.id, EXPORT, total=sum(listing.count(user.id) for listing in listings().values()))


def export_steps(transfer: Transfer, draw: Draw, site: Site) -> Iterator[None]:
    """Make an export, a step at a time."""
    with TemporaryFile() as file:
        with ZipFile(file, "w", ZIP_DEFLATED) as archive:
            writer = _Writer(transfer, archive, draw, site)
            for _ in writer.lists():
                if file.tell() > LARGEST_FILE:
                    raise TransferError(TOO_LARGE)
                yield
            writer.finish()
        file.seek(0)
        transfer.finish(file)


class _Writer:
    """Writes one export."""

    def __init__(self, transfer: Transfer, archive: ZipFile, draw: Draw, site: Site) -> None:
        self._transfer = transfer
        self._archive = archive
        self._draw = draw
        self._site = site
        self._lists: dict[str, dict[str, int]] = {}
        self._done = 0
        user = User.with_id(transfer.user_id)
        if user is None:
            raise LostClaimError
        self._account = _account(user)
        picture = db.session.get(Picture, user.id)
        if picture:
            archive.writestr(PICTURE, picture.webp)
        self._account["picture"] = PICTURE if picture else None

    def lists(self) -> Iterator[None]:
        """Write all lists; each item is PER_FILE rows more."""
        for name, listing in listings().items():
            files = -(-listing.count(self._transfer.user_id) // PER_FILE)  # what is added meanwhile is left out
            self._lists[name] = {"count": 0, "files": files}
            key = -LARGEST_ID
            for number in range(1, files + 1):
                rows = listing.after(key, self._transfer.user_id)
                db.session.rollback()  # gives the connection back
                items = [listing.item(row, self._account["name"], self._site) for row in rows]
                page = {"name": name, "items": items, "number": number, "files": files}
                self._archive.writestr(f"{name}/{number}.json", _json({name: items}))
                self._archive.writestr(f"{name}/{number}.html", self._draw("list", account=self._account, **page))
                self._lists[name]["count"] += len(items)
                self._done += len(items)
                key = rows[-1][0] if rows else key
                with write():
                    self._transfer.advance(self._done)
                yield

    def finish(self) -> None:
        """Write what tells of the rest."""
        about = {"format": FORMAT, "version": VERSION, "made_at": _date(datetime.now(UTC))}
        about |= {"site": {"name": self._site.name, "url": self._site.url}}
        about |= {"account": self._account, "lists": self._lists}
        self._archive.writestr("index.html", self._draw("index", **about))
        self._archive.writestr(MANIFEST, _json(about))


def _account(user: User) -> dict[str, Any]:
    """Return what is said of an account. Raises StoreUnavailableError."""
    factor = SecondFactor.of(user.id)
    until = user.suspended_until
    suspended = {"until": until and _date(until), "reason": user.suspension_reason} if user.is_suspended else None
    told_of = [kind for kind in KINDS if kind not in user.not_told_of.split(",")]
    return {
        "name": user.name,
        "display_name": user.display_name,
        "about": user.about,
        "link": user.link,
        "joined_at": _date(user.created_at),
        "email": user.email,
        "unconfirmed_email": user.new_email,
        "pinned_post": user.pinned_post_id,
        "notifications": told_of,
        "suspended": suspended,
        "two_factor_since": factor and _date(factor.created_at),
        "devices": [
            {"device": place.device, "address": place.address, "since": _date(place.since), "seen": _date(place.seen)}
            for place in current_interface().active(user.id)
        ],
    }


def _post(row: Any, owner: str, site: Site) -> dict[str, Any]:
    author = row.addressee if row.addressee_id else owner
    return {
        "id": row.id,
        "url": site.link(owner, row.id),
        "text": row.body,
        "created_at": _date(row.created_at),
        "edited_at": row.edited_at and _date(row.edited_at),
        "reply_to": {
            "id": row.answered_id,
            "author": author,  # None if the account is gone, or was elsewhere
            "url": row.answered_id and author and site.link(author, row.answered_id),
        }
        if row.answered_id or row.addressee_id
        else None,
    }


def _like(row: Any, _owner: str, site: Site) -> dict[str, Any]:
    return {"post": row.post_id, "author": row.name, "url": site.link(row.name, row.post_id)}


def _person(row: Any, _owner: str, site: Site) -> dict[str, Any]:
    return {"name": row.name, "url": site.link(row.name), "since": _date(row.created_at)}


def _hidden(row: Any, owner: str, site: Site) -> dict[str, Any]:
    return _person(row, owner, site) | {"how": "muted" if row.is_mute else "blocked"}


def _report(row: Any, owner: str, site: Site) -> dict[str, Any]:
    return _person(row, owner, site) | {"post": row.post_id or None, "reason": row.reason}


def _invitation(row: Any, _owner: str, _site: Site) -> dict[str, Any]:
    dates = {"since": _date(row.created_at), "until": _date(row.revoked_at or row.expires_at)}
    return {"uses": row.uses, "most_uses": row.most_uses} | dates


@cache
def listings() -> dict[str, Listing]:
    """Return the lists of an export, by their names there."""
    people, block, report, invitation = people_table().c, *(table.__table__.c for table in (Block, Report, Invitation))
    posts = select(POST.id, POST.body, POST.created_at, POST.edited_at, POST.answered_id, POST.addressee_id)
    posts = posts.add_columns(people.name.label("addressee")).outerjoin(people.id.table, people.id == POST.addressee_id)
    likes = select(LIKE.id, LIKE.post_id, people.name).join(POST.id.table, POST.id == LIKE.post_id)
    likes = likes.join(people.id.table, people.id == POST.author_id)
    following = select(FOLLOW.id, people.name, FOLLOW.created_at).join(people.id.table, people.id == FOLLOW.followed_id)
    hidden = select(block.id, people.name, block.created_at, block.is_mute)
    hidden = hidden.join(people.id.table, people.id == block.other_id)
    reports = select(report.id, people.name, report.created_at, report.post_id, report.reason)
    reports = reports.join(people.id.table, people.id == report.user_id)
    invitations = select(invitation.id, invitation.created_at, invitation.expires_at, invitation.revoked_at)
    invitations = invitations.add_columns(invitation.uses, invitation.most_uses)
    return {
        "posts": Listing(posts.where(POST.author_id == USER_ID), _post),
        "likes": Listing(likes.where(LIKE.user_id == USER_ID), _like),
        "following": Listing(following.where(FOLLOW.follower_id == USER_ID), _person),
        "hidden": Listing(hidden.where(block.user_id == USER_ID), _hidden),
        "reports": Listing(reports.where(report.reporter_id == USER_ID), _report),
        "invitations": Listing(invitations.where(invitation.made_by == USER_ID), _invitation),
    }


def _date(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1)
