"""The one place where a write meets the cache: the cached pages by name, and write(), which drops them.

A view that is decorated with @cached(LATEST_PAGE) shows the page that a write(LATEST_PAGE()) changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from app.cache import PageKind, current_cache
from app.extensions import db

LATEST_PAGE = PageKind("latest")
PROFILE_PAGE = PageKind("user")  # by the user's name, which never changes: PROFILE_PAGE("ada")


@contextmanager
def write(*pages: str, removal: bool = False) -> Iterator[None]:
    """Run a write, commit it, and drop the cached `pages` that it changes, as CACHE_STRATEGY says.

    removal: the write removes something. Under every strategy, the cache never serves the removed content again.

    Rolls back and raises what the body or the commit raises. Raises StoreUnavailableError, with nothing written, if
    the cache can't be told.
    """
    try:
        if pages:
            with current_cache().changing(*pages, removal=removal):
                yield
                db.session.commit()
        else:
            yield
            db.session.commit()
    except BaseException:
        db.session.rollback()
        raise
