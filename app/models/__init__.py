"""What is kept in SQL, and what one may do with it. Models know nothing of HTTP."""

from app.models.accounts import EmailTakenError, NameTakenError, User
from app.models.follows import Follow
from app.models.joining import Applicant, Invitation
from app.models.likes import Like
from app.models.notifications import Notification
from app.models.post_text import PostTextError
from app.models.posts import Post, PostTag
from app.models.search import SearchError, SearchQuery

__all__ = [
    "Applicant",
    "EmailTakenError",
    "Follow",
    "Invitation",
    "Like",
    "NameTakenError",
    "Notification",
    "Post",
    "PostTag",
    "PostTextError",
    "SearchError",
    "SearchQuery",
    "User",
]
