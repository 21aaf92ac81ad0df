"""The moderators' page of numbers."""

import re
from datetime import UTC, datetime, time, timedelta
from html import unescape
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from sqlalchemy import event, text, update

from app.daily_counts import DAYS, last_days
from app.extensions import db
from app.models import Post, User
from app.models.by_day import joined, published
from app.models.mail import Mail
from app.redis_client import StoreUnavailableError
from tests.conftest import Visitor
from tests.web.test_moderation import report

PATH = "/moderation/status"


def figures(page: str) -> dict[str, str]:
    """Return the numbers of now, by what they are of."""
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    return {what: re.sub(r"<[^>]+>", "", number).strip() for what, number in found}


def totals(page: str) -> dict[str, str]:
    """Return what each chart adds up to, by its title."""
    return dict(re.findall(r"<figcaption>(.*?) <b>(.*?)</b>", page))


def columns(page: str) -> dict[str, list[str]]:
    """Return the table, by its headings."""
    heads = re.findall(r'<th scope="col">(.*?)</th>', page)
    rows = re.findall(r'<tr>(<th scope="row">.*?)</tr>', page)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return dict(zip(heads, map(list, zip(*cells, strict=True)), strict=True))


def test_an_empty_site_is_thirty_days_of_zeros(moderator: Visitor) -> None:
    page = moderator.get(PATH).text
    assert totals(page) == {
        "New accounts": "1",
        "Posts": "0",
        "Pages from the cache": "0",
        "Pages built": "0",
        "Logins refused by the limit": "0",
    }
    assert (figures(page)["Open reports"], figures(page)["Mails waiting"]) == ("0", "0")
    assert columns(page)["Posts"] == DAYS * ["0"]
    assert 'aria-label="Posts a day. Most: none."' in page


def test_accounts_and_posts_are_counted_on_their_day_in_utc(app: Flask, ada: Visitor, moderator: Visitor) -> None:
    midnight = datetime.combine(last_days()[-3], time.min, UTC)
    moments = [midnight - timedelta(microseconds=1), midnight, midnight + timedelta(hours=23, minutes=59)]
    moments += [midnight - timedelta(days=40)]
    with app.app_context():
        for moment in moments:
            db.session.add(Post(author_id=1, body="hello", created_at=moment))
        db.session.add(Post(id=-1, author_id=1, body="imported", created_at=midnight))
        db.session.execute(update(User).where(User.name == "ada").values(created_at=midnight))
        db.session.commit()
    page = moderator.get(PATH).text
    assert columns(page)["Posts"] == [*(DAYS - 4) * ["0"], "1", "2", "0", "0"]
    assert columns(page)["Accounts"] == [*(DAYS - 3) * ["0"], "1", "0", "1"]
    assert f'aria-label="Posts a day. Most: 2 on {midnight:%-d %b}."' in page
    assert f'height="30"><title>{midnight - timedelta(days=1):%-d %b}: 1</title>' in page


def test_a_busy_day_is_counted_up_to_a_bound(ada: Visitor, moderator: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        ada.publish(str(number))
    monkeypatch.setattr("app.models.pagination.MOST_COUNTED", 2)
    monkeypatch.setattr("app.web.status.MOST_COUNTED", 2)
    page = moderator.get(PATH).text
    assert columns(page)["Posts"][-1] == "2+"
    assert totals(page)["Posts"] == "at least 3"


def test_each_number_is_read_from_an_index(app: Flask, context: None) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, values: Any, *_rest: object) -> None:
        asked.append((statement, values))

    event.listen(db.engine, "before_cursor_execute", note)
    joined(last_days())
    published(last_days())
    is_sqlite = db.engine.dialect.name == "sqlite"
    if not is_sqlite:
        db.session.execute(text("SET LOCAL enable_seqscan = off"))  # an empty table needs no index
    for (statement, values), index in zip(asked[:2], ("ix_users_created_at", "ix_posts_created_at_id"), strict=True):
        explain = f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{statement}"
        plan = "\n".join(str(row) for row in db.session.connection().exec_driver_sql(explain, values))
        days = plan.count(f"COVERING INDEX {index}" if is_sqlite else f"using {index} on")
        # All rows that other tests have left in PostgreSQL's statistics are of today; any index finds these.
        assert days >= (DAYS if is_sqlite else DAYS - 1), plan


def test_the_page_says_what_is_open_and_what_waits(
    app: Flask, ada: Visitor, bob: Visitor, moderator: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(bob, "/@ada")
    with app.app_context():
        db.session.add(Mail(kind="reset", recipient="ada@example.org"))
        db.session.add(Mail(kind="reset", recipient="bob@example.org", failed_at=datetime.now(UTC)))
        db.session.commit()
    page = moderator.get(PATH).text
    assert figures(page)["Open reports"] == "1"
    assert figures(page)["Mails waiting"] == "1 1 failed lately"
    assert figures(page)["Sessions"].startswith("3 ")
    monkeypatch.setattr("app.models.moderation.MOST_COUNTED", 0)
    monkeypatch.setattr("app.web.status.MOST_REPORTS", 0)
    assert figures(moderator.get(PATH).text)["Open reports"] == "0+"


@pytest.mark.server  # fakeredis scans in alphabetical order
def test_sessions_are_estimated_from_a_sample_where_there_are_many_keys(
    app: Flask, redis: Redis, moderator: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.sessions.SAMPLE", 200)
    for number in range(1000):
        redis.set(f"session:{number:022}", "{}")
        redis.set(f"something-else:{number}", "")
    found = re.fullmatch(r"about ([\d,]+) logged-in browsers", figures(moderator.get(PATH).text)["Sessions"])
    assert found
    assert 600 <= int(found[1].replace(",", "")) <= 1400


@pytest.mark.server
def test_the_page_says_how_much_of_redis_is_used(redis: Redis, moderator: Visitor) -> None:
    page = figures(moderator.get(PATH).text)
    assert re.fullmatch(r"\d+\.\d MB no limit known", page["Redis memory"])
    assert re.fullmatch(r"\d+ of [\d,]+ \(\d+%\)", page["Redis connections"])
    redis.config_set("maxmemory", 100_000_000)
    try:
        page = figures(moderator.get(PATH).text)
    finally:
        redis.config_set("maxmemory", 0)
    assert re.fullmatch(r"\d+\.\d MB of 100\.0 MB \(\d+%\)", page["Redis memory"])


def test_if_redis_goes_away_meanwhile_the_page_shows_what_sql_knows_and_says_so(
    ada: Visitor, moderator: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada.publish("hello")

    def fail(*_: object) -> None:
        raise StoreUnavailableError

    for method in ("daily_counts.DailyCounts.read", "sessions.PipitSessionInterface.count", "redis_client.Store.usage"):
        monkeypatch.setattr(f"app.{method}", fail)
    page = moderator.get(PATH).text
    assert "Redis doesn't tell everything" in unescape(page)
    assert totals(page) == {"New accounts": "2", "Posts": "1"}
    assert list(figures(page)) == ["Open reports", "Mails waiting"]
    assert list(columns(page)) == ["Day", "Accounts", "Posts"]


def test_a_refused_login_is_counted_once(app: Flask, visitor: Visitor, ada: Visitor, moderator: Visitor) -> None:
    for _ in range(7):
        answer = visitor.log_in("ada", "wrong password")
    assert answer.status_code == 429
    for _ in range(25):  # a limit on something else
        ada.publish("hello")
    app.extensions["daily_counts"].write()
    assert totals(moderator.get(PATH).text)["Logins refused by the limit"] == "2"
