"""The pages: blueprints, and the WSGI layers in front of them."""

from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from app.cache import PageCache
from app.config import Config
from app.front.assets import Assets
from app.front.early import EarlyAnswers
from app.front.log import RequestLog, init_request_log
from app.front.page_cache import PageCacheLayer
from app.front.security import HTTPSOnly, SecurityHeaders
from app.front.slow_bodies import LARGEST_REQUEST, SlowBodies
from app.web import accounts, errors, health, limits, pages, people, posts
from app.web.converters import IdConverter
from app.web.viewer import signed_in

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def init_web(app: Flask, config: Config, assets: Assets) -> None:
    """Register the blueprints, and stack the WSGI layers: the last one added is the first to see a request."""
    app.config.update(
        SECRET_KEY=config.secret_key,
        MAX_CONTENT_LENGTH=LARGEST_REQUEST,
        TRUSTED_HOSTS=list(config.trusted_hosts) or None,
        WTF_CSRF_TIME_LIMIT=None,  # a token is good as long as its session: nobody loses a text to a slow lunch
        WTF_CSRF_SSL_STRICT=False,  # the token and the __Host- cookie decide; some people's browsers send no Referer
        SITE_NAME=config.site_name,
    )
    app.url_map.converters["id"] = IdConverter
    for module in (posts, people, accounts, health):
        app.register_blueprint(module.bp)
    errors.init_errors(app)
    limits.init_limits(app)
    pages.init_pages(app, assets)
    cache: PageCache = app.extensions["page_cache"]
    cache.register({"latest": posts.build_latest, "user": people.build_profile})
    app.context_processor(lambda: {"viewer": signed_in(), "site_name": config.site_name})

    proxies = config.trusted_proxies
    flask = SecurityHeaders(assets.serve_before(SlowBodies(app.wsgi_app)))
    page_cache = PageCacheLayer(flask, app, config.trusted_hosts)
    layers: WSGIApplication = page_cache
    if config.on_heroku:
        layers = HTTPSOnly(layers, config.trusted_hosts)
    if proxies:
        layers = ProxyFix(layers, x_for=proxies, x_proto=proxies, x_host=0)
    early_answers = EarlyAnswers(RequestLog(layers, believe_id=proxies > 0), paths=page_cache.page_names)
    app.extensions["early_answers"] = early_answers
    app.wsgi_app = early_answers  # type: ignore[method-assign]  # Flask's own way
    init_request_log()
