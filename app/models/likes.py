"""Who likes which post."""

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.extensions import Base
from app.models.pagination import Id


class Like(Base):
    """Somebody likes a post. Its id only serves to page through a list that grows, newest first."""

    __tablename__ = "likes"
    __table_args__ = (
        Index("uq_likes_user_id_post_id", "user_id", "post_id", unique=True),
        Index("ix_likes_user_id_id", "user_id", "id"),
        Index("ix_likes_post_id_id", "post_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    post_id: Mapped[int] = mapped_column(ForeignKey("posts.id", ondelete="CASCADE"))
