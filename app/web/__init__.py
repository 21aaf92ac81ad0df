"""The pages: blueprints, and what they share."""

from flask import Flask

from app.cache import PageCache
from app.config import Config
from app.front.assets import Assets
from app.front.bridge import MAX_CONTENT_LENGTH
from app.front.log import init_log
from app.front.wsgi_middleware import FrontMiddleware
from app.web import (
    accounts,
    addresses,
    blocks,
    caching,
    errors,
    feeds,
    health,
    holes,
    joining,
    leaving,
    letters,
    limits,
    membership,
    moderation,
    notifications,
    people,
    pictures,
    posts,
    recent_login,
    search,
    second_factor,
    site_pages,
    status,
    suspension,
    templating,
    transfers,
    uploads,
    well_known,
)
from app.web.converters import DigestConverter, IdConverter, TagConverter
from app.web.viewer import signed_in


def init_web(app: Flask, config: Config, assets: Assets) -> None:
    """Register the blueprints and what they need."""
    app.config.update(
        SECRET_KEY=config.secret_key,
        MAX_CONTENT_LENGTH=MAX_CONTENT_LENGTH,
        TRUSTED_HOSTS=list(config.trusted_hosts) or None,
        WTF_CSRF_TIME_LIMIT=None,  # a token is good as long as its session: nobody loses a text to a slow lunch
        WTF_CSRF_SSL_STRICT=False,  # the token and the __Host- cookie decide; some people's browsers send no Referer
        SITE_NAME=config.site_name,
    )
    app.url_map.converters |= {"id": IdConverter, "tag": TagConverter, "digest": DigestConverter}
    own = accounts, recent_login, second_factor, addresses, people, pictures, blocks, notifications, transfers, leaving
    kept = joining, moderation, status, suspension, site_pages
    for module in (posts, *own, *kept, search, feeds, health, well_known):
        app.register_blueprint(module.bp)
    uploads.init_uploads(app)
    membership.init_membership(app)
    suspension.init_suspension(app)
    errors.init_errors(app)
    limits.init_limits(app)
    letters.init_letters(app)
    templating.init_templates(app, assets)
    transfers.init_transfers(app, config)
    site_pages.init_site_pages(app)
    cache: PageCache = app.extensions["page_cache"]
    notifications.init_notifications(cache)
    posts.init_posts(app, cache)
    blocks.init_blocks(cache)
    app.extensions["cached_pages"] = caching.CachedPages(app, cache, app.extensions["holes"])
    known = {"site_name": config.site_name, "site_url": config.site_url, "csrf_token": holes.csrf_token_for_visitor}
    app.context_processor(lambda: {"viewer": signed_in(), "source_url": config.source_url, **known})
    app.wsgi_app = FrontMiddleware(assets.serve_before(app.wsgi_app), config)  # type: ignore[method-assign]
    init_log()
