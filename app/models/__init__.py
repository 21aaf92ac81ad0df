"""What is kept in SQL, and what one may do with it. Models know nothing of HTTP."""

from app.models.accounts import EmailTakenError, NameTakenError, User
from app.models.blocks import Block, BlockedError
from app.models.follows import Follow
from app.models.joining import Applicant, Invitation
from app.models.likes import Like
from app.models.moderation import Moderator, Report
from app.models.notifications import Notification
from app.models.pictures import Picture
from app.models.pins import PinnedPost
from app.models.post_text import PostTextError
from app.models.posts import Post, PostTag
from app.models.search import SearchError, SearchQuery
from app.models.second_factor import RecoveryCode, SecondFactor
from app.models.site_pages import SitePage

__all__ = [
    "Applicant",
    "Block",
    "BlockedError",
    "EmailTakenError",
    "Follow",
    "Invitation",
    "Like",
    "Moderator",
    "NameTakenError",
    "Notification",
    "Picture",
    "PinnedPost",
    "Post",
    "PostTag",
    "PostTextError",
    "RecoveryCode",
    "Report",
    "SearchError",
    "SearchQuery",
    "SecondFactor",
    "SitePage",
    "User",
]
