"""The site's own pages: about, rules and privacy. Each comes with a text, which moderators can replace."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from sqlalchemy import String, Text, delete
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, UTCDateTime, db
from app.models.post_text import CONTROL

TITLES = {"about": "About", "rules": "Rules", "privacy": "Privacy"}  # by name
LENGTH = 20_000  # code points; some ten printed pages
DEFAULTS = Path(__file__).with_name("default_pages")


class SitePage(Base):
    """The text of a page that moderators have written."""

    __tablename__ = "site_pages"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    body: Mapped[str] = mapped_column(Text)
    edited_at: Mapped[datetime] = mapped_column(UTCDateTime)

    @classmethod
    def text_of(cls, name: str) -> str:
        """Return the text of a page: the moderators', or the one that comes with Pipit."""
        page = db.session.get(cls, name)
        return page.body if page else default_text(name)

    @classmethod
    def store(cls, name: str, body: str) -> None:
        """Give a page another text, or Pipit's own if there is nothing in it; the caller commits."""
        text = CONTROL.sub("", body.replace("\r\n", "\n")).strip()
        if text in ("", default_text(name)):
            db.session.execute(delete(cls).where(cls.name == name))
        else:
            db.session.merge(cls(name=name, body=text, edited_at=datetime.now(UTC)))


@cache
def default_text(name: str) -> str:
    """Return the text that comes with Pipit."""
    return (DEFAULTS / f"{name}.txt").read_text(encoding="utf-8").strip()
