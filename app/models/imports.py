"""Imports: the posts of an export, into somebody's account, with their dates. docs/your-data.md says what is left out.

Lists of posts are in the order of ids, and the age of posts here is. An imported post is older than it seems, so its id
is a negative number, made of its date. So imported posts come after all that was written here, in every list, in the
order of their dates, whoever imports them and however often; and nobody's list is full of them.

Nothing is done twice: posts.sent_as is unique, and says of an imported post whose it is, from when, and what it says.
"""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import SEEK_END
from typing import IO, Any, Self
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from sqlalchemy import func, select

from app.extensions import db
from app.models.accounts import User
from app.models.conversations import pages_above
from app.models.exports import FORMAT, MANIFEST, PER_FILE, VERSION
from app.models.pagination import LARGEST_ID
from app.models.post_text import PostText, PostTextError, in_brief, one_line
from app.models.posts import ELSEWHERE, Post, PostTag
from app.models.transfers import IMPORT, LostClaimError, Transfer, TransferError
from app.models.writes import write

MOST_POSTS = 100_000  # in a file, and in an account
MOST_VALUES = 100 * PER_FILE  # in the JSON of a file of posts; a post has a dozen
LARGEST_MANIFEST = 256 * 2**10  # bytes; one with fifty devices has some 10 kB
LARGEST_LIST = 4 * 2**20  # bytes of one file of posts; PER_FILE of the longest that there can be have 2.3 MB
LARGEST_WHOLE = 200 * 2**20  # bytes that are unpacked in all; 100,000 usual posts have 50 MB
LARGEST_DIRECTORY = 2**20  # bytes of a ZIP's own list of its files, which Python reads into memory at once
DIRECTORY_END, ZIP64_END = b"PK\x05\x06", b"PK\x06\x07"  # what the last 22 bytes begin with, and the 20 before them
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_ID = -(2**52)  # a post of EPOCH; JavaScript knows all integers up to 2**53, and an id of 0 would be of 2112
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
NEIGHBOURS = 100  # ids that are read at once to find a free one
LISTS = "posts", "likes", "following", "hidden"  # of which an export must say how long they are
STRING = re.compile(rb'"(?s:[^"\\]|\\.)*+\\?(?:"|\Z)')  # of JSON, or what is left of one; in linear time
BEGINNING = 80  # characters of a text, in a report
MOST_REPORTED = 100  # posts that a report names

BROKEN = "That isn't a ZIP file, or it is damaged or incomplete."
NOT_OURS = "That isn't an export from Pipit. Choose the ZIP file that you downloaded in the settings of an account."
NEWER = "That export was made by another version of Pipit, which this site can't read."
TOO_MUCH = f"There is too much in that file. An import can have up to {MOST_POSTS:,} posts."
FULL = f"You already have {MOST_POSTS:,} imported posts, which is the most an account can have."
ODD = "It isn't written as in an export from Pipit."
NO_DATE = "Its date is in the future, or can't be true."


class ImportFileError(ValueError):
    """A file that can't be imported; the message says why, to the person who sent it."""


class Archive:
    """An export that somebody has uploaded. No more of it is read than the limits allow, whatever it says."""

    def __init__(self, file: IO[bytes]) -> None:
        """Read what the file says of itself, and see that it is whole. Raises ImportFileError."""
        _check_directory(file)
        try:
            self._zip = ZipFile(file)
        except (BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise ImportFileError(BROKEN) from error
        self._folder = self._find_folder()
        about = _parsed(self._read(MANIFEST, LARGEST_MANIFEST))
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ImportFileError(NOT_OURS)
        if about.get("version") != VERSION:
            raise ImportFileError(NEWER)
        try:
            self.owner = str(about["account"]["name"])
            self.counts = {name: _number(about["lists"][name]["count"]) for name in LISTS}
            self._files = _number(about["lists"]["posts"]["files"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ImportFileError(NOT_OURS) from error
        if self._files > MOST_POSTS // PER_FILE or self.count > MOST_POSTS:
            raise ImportFileError(TOO_MUCH)
        if sum(self._size(name) for name in self._names()) > LARGEST_WHOLE:
            raise ImportFileError(TOO_MUCH)
        for name in self._names():
            self._read(name, LARGEST_LIST)

    @property
    def count(self) -> int:
        """Return how many posts it says there are in it."""
        return self.counts["posts"]

    def posts(self) -> Iterator[list[Any]]:
        """Yield its posts, as they are in each of its files: the JSON is right, and nothing else is certain.

        Raises ImportFileError.
        """
        for name in self._names():
            content = _parsed(self._read(name, LARGEST_LIST))
            posts = content.get("posts") if isinstance(content, dict) else None
            if not isinstance(posts, list) or len(posts) > PER_FILE:
                raise ImportFileError(NOT_OURS)
            yield posts

    def _names(self) -> list[str]:
        return [f"posts/{number}.json" for number in range(1, self._files + 1)]

    def _find_folder(self) -> str:
        """Return the folder that everything is in, with a slash; none, unless a Mac has packed the files again."""
        names = self._zip.namelist()
        if MANIFEST in names:
            return ""
        folders = (name.removesuffix(MANIFEST) for name in names if name.endswith(f"/{MANIFEST}"))
        folder = next((folder for folder in folders if folder.count("/") == 1), None)
        if folder is None:
            raise ImportFileError(NOT_OURS)
        return folder

    def _size(self, name: str) -> int:
        try:
            return self._zip.getinfo(self._folder + name).file_size
        except KeyError:
            raise ImportFileError(BROKEN) from None

    def _read(self, name: str, most: int) -> bytes:
        """Return a file's content, if it has at most so many bytes.

        Other compression methods are refused: with them, Python may unpack more than it was asked for.
        """
        if self._size(name) > most:
            raise ImportFileError(TOO_MUCH)
        info = self._zip.getinfo(self._folder + name)
        try:
            if info.compress_type not in (ZIP_DEFLATED, ZIP_STORED):
                raise NotImplementedError
            with self._zip.open(info) as file:
                content = file.read(info.file_size)  # without a number, all is unpacked before it is cut off
        except (BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
            raise ImportFileError(BROKEN) from error
        if len(content) < info.file_size:
            raise ImportFileError(BROKEN)
        return content


def start_import(user: User, file: IO[bytes]) -> None:
    """Have the posts of an export imported in the background. Raises ImportFileError, UnderWayError."""
    archive = Archive(file)
    file.seek(0)
    Transfer.start(user.id, IMPORT, total=archive.count, file=file)


def import_steps(transfer: Transfer) -> Iterator[None]:
    """Import the posts of a file, PER_FILE in a step."""
    with transfer.copy() as file:
        try:
            archive = Archive(file)
            importer = _Importer(transfer, archive)
            for posts in archive.posts():
                importer.take(posts)
                yield
        except ImportFileError as error:  # the file has been checked; but each post's JSON only now
            raise TransferError(str(error)) from error
        transfer.finish()


@dataclass(frozen=True)
class Record:
    """A post in an export."""

    id: int  # where the export comes from
    text: str
    created_at: datetime
    edited_at: datetime | None
    answered_id: int | None  # the post that it replies to, there
    is_to_others: bool  # it replies to somebody else

    @classmethod
    def parse(cls, post: Any, owner: str) -> Self | None:
        """Return a post as it is in the JSON of an export by `owner`; None if it can't be in one."""
        try:
            reply_to = post["reply_to"]
            if not isinstance(post["text"], str):
                return None
            post["text"].encode()  # half a surrogate pair is no text
            return cls(
                id=_number(post["id"], -LARGEST_ID),
                text=post["text"],
                created_at=(created_at := _moment(post["created_at"])),
                edited_at=_since(created_at, post["edited_at"]),
                answered_id=_number(reply_to["id"], -LARGEST_ID) if reply_to and reply_to["id"] else None,
                is_to_others=bool(reply_to) and reply_to["author"] != owner,
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None


class _Importer:
    """Imports the posts of one file."""

    def __init__(self, transfer: Transfer, archive: Archive) -> None:
        self._transfer = transfer
        self._user_id = transfer.user_id
        self._owner = archive.owner
        others = {name: count for name, count in archive.counts.items() if name != "posts"}
        self._report: dict[str, Any] = {
            "imported": 0,
            "already": 0,
            "left_out": 0,
            "posts": [],
            "others": others,
        } | transfer.outcome
        self._done = 0
        self._room = MOST_POSTS - _imported_by(self._user_id)  # for new posts
        self._ids: dict[int, int] = {}  # here, by those in the export

    def take(self, posts: Sequence[Any]) -> None:
        """Import some posts, and note that; those that an earlier attempt has imported only teach their ids."""
        self._done += len(posts)
        records = [Record.parse(post, self._owner) for post in posts]
        known = self._known([record for record in records if record])
        self._ids |= {record.id: known[key] for record in records if record and (key := self._key(record)) in known}
        if self._done <= self._transfer.done:
            return
        user = User.with_id(self._user_id)
        if user is None:
            raise LostClaimError
        fit = dict[str, tuple[Record, PostText]]()  # by their keys
        for post, record in zip(posts, records, strict=True):
            said = _fit(record)
            if record is None or isinstance(said, str):
                self._leave_out(post, str(said))
            elif (key := self._key(record)) in known or key in fit:
                self._report["already"] += 1
            elif len(fit) >= self._room:
                self._leave_out(post, FULL)
            else:
                fit[key] = record, said
        new = self._made(fit)
        self._room -= len(new)
        self._report["imported"] += len(new)
        above = [post.reply_to_id for post in new if post.reply_to_id]
        lists = set[str]().union(*(post.lists(user.name) for post in new))
        with write(*lists, *(pages_above(above) if above else ())):
            db.session.add_all(new)
            self._transfer.advance(self._done, self._report)

    def _key(self, record: Record) -> str:
        """Return what tells that the same post has been imported before."""
        said = f"import {self._user_id} {record.created_at.isoformat()} {record.text}"
        return hashlib.sha256(said.encode()).hexdigest()

    def _known(self, records: Collection[Record]) -> dict[str, int]:
        """Return the ids here of those of these posts that are here, by their keys.

        They were imported before, or are the very posts of the export.
        """
        before = select(Post.sent_as, Post.id).where(Post.sent_as.in_([self._key(record) for record in records]))
        known = {str(key): post_id for key, post_id in db.session.execute(before)}
        same = Post.author_id == self._user_id, Post.id.in_([record.id for record in records])
        here = {
            (post_id, moment) for post_id, moment in db.session.execute(select(Post.id, Post.created_at).where(*same))
        }
        return known | {self._key(record): record.id for record in records if (record.id, record.created_at) in here}

    def _made(self, fit: Mapping[str, tuple[Record, PostText]]) -> list[Post]:
        """Return posts, ready to be added."""
        new = list[Post]()
        ids = _free_ids([record for record, _ in fit.values()])
        for (key, (record, said)), post_id in zip(fit.items(), ids, strict=True):
            post = Post(
                id=post_id, author_id=self._user_id, body=said.body, tags=[PostTag(tag=tag) for tag in said.tags]
            )
            post.created_at, post.edited_at = record.created_at, record.edited_at
            post.sent_as = key
            if record.is_to_others:
                post.addressee_id = ELSEWHERE
            elif record.answered_id:
                post.answered_id = post.reply_to_id = self._ids.get(record.answered_id)
            self._ids[record.id] = post_id  # only now: a post never replies to itself
            new.append(post)
        return new

    def _leave_out(self, post: Any, reason: str) -> None:
        """Report why a post is not imported."""
        self._report["left_out"] += 1
        if len(self._report["posts"]) < MOST_REPORTED:
            said, date = ((post.get(name) if isinstance(post, dict) else None) for name in ("text", "created_at"))
            said, date = in_brief(_line(said), BEGINNING), _line(date)[:10]
            self._report["posts"].append({"text": said, "date": date, "reason": reason})


def _line(value: Any) -> str:
    """Return the beginning of what should be a text, as a line that can be shown and stored."""
    return one_line(str(value or "")[: 2 * BEGINNING].encode(errors="replace").decode())


def _fit(record: Record | None) -> PostText | str:
    """Return a post's text if it can be a post here; else why not."""
    if record is None:
        return ODD
    if not EARLIEST < record.created_at < datetime.now(UTC):
        return NO_DATE
    try:
        return PostText.parse(record.text)
    except PostTextError as error:
        return str(error)


def _free_ids(records: Collection[Record]) -> list[int]:
    """Return an id for each of these posts: the first one from its date on, by the microsecond, that is free."""
    ids = [FIRST_ID + (record.created_at - EPOCH) // timedelta(microseconds=1) for record in records]
    taken = set(db.session.scalars(select(Post.id).where(Post.id.in_(ids))))  # somebody else may import the same
    last = FIRST_ID
    for index in sorted(range(len(ids)), key=ids.__getitem__):
        if ids[index] in taken or ids[index] <= last:
            ids[index] = _next_free_id(max(ids[index], last + 1))
        last = ids[index]
    return ids


def _next_free_id(post_id: int) -> int:
    """Return the first id from this one on that no post has."""
    while True:
        taken = db.session.scalars(select(Post.id).where(Post.id >= post_id).order_by(Post.id).limit(NEIGHBOURS)).all()
        for other in taken:
            if other != post_id:
                return post_id
            post_id += 1
        if len(taken) < NEIGHBOURS:
            return post_id


def _imported_by(user_id: int) -> int:
    """Return how many posts an account has imported."""
    return db.session.scalar(select(func.count()).select_from(Post).where(Post.author_id == user_id, Post.id < 0)) or 0


def _check_directory(file: IO[bytes]) -> None:
    """Check that a ZIP's list of files is no larger than it may be, for ZipFile() reads all of it."""
    size = file.seek(0, SEEK_END)
    file.seek(max(size - len(ZIP64_END) - 16 - 22, 0))
    before, end = (tail := file.read())[:-22], tail[-22:]
    if not end.startswith(DIRECTORY_END) or end[-2:] != b"\0\0" or before.startswith(ZIP64_END):
        raise ImportFileError(BROKEN)
    if struct.unpack_from("<L", end, 12)[0] > LARGEST_DIRECTORY:
        raise ImportFileError(TOO_MUCH)


def _parsed(content: bytes) -> Any:
    """Return what JSON says. Raises ImportFileError, also if it has more values than an export: each takes memory."""
    if sum(map(STRING.sub(b"", content).count, (b"{", b"[", b","))) > MOST_VALUES:
        raise ImportFileError(NOT_OURS)
    try:
        return json.loads(content.decode("utf-8-sig"))  # of bytes it would guess the encoding, unlike STRING
    except (ValueError, RecursionError) as error:
        raise ImportFileError(NOT_OURS) from error


def _number(value: Any, least: int = 0) -> int:
    """Return a whole number that SQL can hold. Raises ValueError."""
    if type(value) is not int or not least <= value <= LARGEST_ID:
        raise ValueError
    return value


def _moment(text: str) -> datetime:
    """Return a moment that is given in the form of RFC 3339. Raises TypeError, ValueError or OverflowError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment.astimezone(UTC)


def _since(created_at: datetime, text: str | None) -> datetime | None:
    """Return when a post of that date was edited; None if it was not, or its date can't be true."""
    moment = _moment(text) if text else None
    return moment if moment and created_at <= moment <= datetime.now(UTC) else None
