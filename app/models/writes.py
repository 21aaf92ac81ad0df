"""The one place where a write meets the cache."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.cache import current_cache
from app.extensions import db


@contextmanager
def write(*pages: str, removal: bool = False) -> Iterator[None]:
    """Run a write, commit it, and have the cache's strategy deal with the cached `pages` that it changes.

    removal: it takes something away; whatever the strategy, that is not served from the cache again.

    Rolls back and raises what the body or the commit raises; raises StoreUnavailableError, with nothing written, if
    the cache can't be told of a write to its pages.
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
