"""The names of deleted accounts. Nobody gets one again: a permalink or a mention must not come to mean somebody else.

Only a hash of the name is kept. It tells whether a name is one of them, but there is no list of who was here.
"""

import hashlib

from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base, db


class FormerName(Base):
    """The name of a deleted account, as SHA-256 of its lower case."""

    __tablename__ = "former_names"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)

    @classmethod
    def keep(cls, name: str) -> None:
        """Reserve a name for ever; the caller commits."""
        db.session.add(cls(digest=_digest(name)))

    @classmethod
    def has(cls, name: str) -> bool:
        """Return whether a deleted account had that name, in whatever case."""
        return db.session.scalar(select(cls.digest).where(cls.digest == _digest(name))) is not None


def _digest(name: str) -> str:
    return hashlib.sha256(name.lower().encode()).hexdigest()
