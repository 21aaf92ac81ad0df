"""The kinds of cached pages: the view decorated with @cached and the writes that change its page name the same kind."""

from app.cache import PageKind

LATEST = PageKind("latest")
USER = PageKind("user")  # by name: it never changes
