"""Moderation: who may, what people report, what moderators decide, and the log of that."""

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from click.testing import Result
from flask import Flask
from redis import Redis
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.extensions import db
from app.models import Report, User
from app.models.moderation import COMMAND_LINE, log_lines
from tests.conftest import PASSWORD, Visitor, id_of
from tests.counting import statements_run
from tests.serving import FrontServer
from tests.web.test_notifications import told, unread
from tests.web.test_posts import shown

PAGES = (
    "/moderation",
    "/moderation/log",
    "/moderation/status",
    "/moderation/pages",
    "/moderation/pages/rules",
    "/moderation/people/ada",
)


@pytest.fixture
def run(app: Flask) -> Callable[..., Result]:
    return lambda *words: app.test_cli_runner().invoke(args=words)


def report(reporter: Visitor, path: str, reason: str = "spam") -> None:
    answer = reporter.post(f"{path}/report", reason=reason)
    assert answer.status_code == 302
    assert "Thanks, the moderators will look at it." in reporter.get(answer.location or "").text


def decide(moderator: Visitor, choice: str, path: str = "ada", reason: str = "Rule 4.") -> str:
    """Decide about somebody, or a post (`ada?post=1`), and return what the next page says."""
    answer = moderator.post(f"/moderation/people/{path}", choice=choice, reason=reason)
    assert answer.status_code == 302, answer.text
    found = re.search(r'class="flash"[^>]*>([^<]*)<', moderator.get(answer.location or "").text)
    assert found
    return found[1]


def log(app: Flask) -> list[str]:
    """Return the lines of the log, the latest first, without that of the moderator's own promotion."""
    with app.app_context():
        return [str(line) for line in log_lines().items if "a moderator" not in str(line)]


def open_reports(moderator: Visitor, path: str = "/") -> str | None:
    """Return the number beside "Moderation" in the menu."""
    found = re.search(r'/moderation">Moderation( <span class="badge">([\d+]+)<)?', moderator.get(path).text)
    return (found[2] or "") if found else None


def test_only_the_command_line_makes_moderators(run: Callable[..., Result], ada: Visitor, visitor: Visitor) -> None:
    for path in PAGES:
        assert ada.get(path).status_code == 404
        assert visitor.get(path).location == f"/login?next={path}"
    assert "no moderator" in run("doctor").output
    assert run("user", "promote", "ada").output == "Made @ada a moderator.\n"
    for path in PAGES:
        assert ada.get(path).status_code == 200, path
    assert open_reports(ada) == ""
    assert '"moderator": true' in run("user", "show", "ada", "--json").output
    assert "1 moderator" in run("doctor").output
    assert run("user", "demote", "ada").output == "Took moderation away from @ada.\n"
    run("user", "demote", "ada")
    assert ada.get("/moderation").status_code == 404
    assert open_reports(ada) is None
    lines = run("user", "log").output.splitlines()
    assert [line[18:] for line in lines] == [
        "The command line took moderation away from @ada",
        "The command line made @ada a moderator",
    ]


def test_a_post_is_reported_from_wherever_it_is_shown(
    app: Flask, ada: Visitor, bob: Visitor, moderator: Visitor
) -> None:
    ada.publish("buy my leeks #leeks")
    for path in ("/", "/@ada", "/@ada/1", "/tags/leeks", "/search?q=leeks"):
        assert 'href="/posts/1/report"' in bob.get(path).text, path
    assert "buy my leeks" in bob.get("/posts/1/report").text
    report(bob, "/posts/1", "Leeks again <&>")
    page = moderator.get("/moderation").text
    assert shown(page) == ['buy my leeks <a href="/tags/leeks" rel="nofollow" dir="auto">#leeks</a>']
    assert "Leeks again &lt;&amp;&gt;" in page
    assert 'href="/@bob"' in page


def test_a_person_is_reported_on_their_page(ada: Visitor, bob: Visitor, moderator: Visitor) -> None:
    assert 'href="/@ada/report"' in bob.get("/@ada").text
    report(bob, "/@ada", "Pretends to be me.")
    assert "Pretends to be me." in moderator.get("/moderation").text
    assert unread(ada) == ""


def test_nobody_is_asked_to_report_themselves(ada: Visitor, visitor: Visitor) -> None:
    assert 'href="/@ada/report"' in visitor.get("/@ada").text
    assert 'href="/@ada/report"' not in ada.get("/@ada").text


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/@ada/report", {"reason": "An hour's work"}),
        ("/moderation/people/ada?post=1", {"choice": "warn", "reason": "An hour's work"}),
        ("/settings/profile", {"about": "An hour's work"}),
    ],
)
def test_what_was_written_before_the_session_ended_is_kept(
    ada: Visitor, moderator: Visitor, redis: Redis, path: str, fields: dict[str, str]
) -> None:
    ada.publish("hello")
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', moderator.get(path).text)
    assert token
    redis.delete(f"session:{moderator.session_id()}")
    answer = moderator.client.post(path, data={"csrf_token": token[1], **fields})
    assert answer.status_code == 403
    assert "Log in to send this" in answer.text
    assert f'href="/login?next={quote(path, safe="/@?")}"' in answer.text
    assert ">An hour&#39;s work</textarea>" in answer.text


def test_a_report_needs_a_reason_and_keeps_what_was_typed(ada: Visitor, bob: Visitor) -> None:
    ada.publish("hello")
    for path in ("/posts/1/report", "/@ada/report"):
        empty = bob.post(path, reason="  ")
        assert empty.status_code == 422
        assert "Say in a few words what&#39;s wrong." in empty.text
        long = bob.post(path, reason="x" * 501)
        assert long.status_code == 422
        assert "x" * 501 in long.text
    assert bob.get("/posts/2/report").status_code == bob.get("/@nobody/report").status_code == 404


def test_nobody_reports_themselves_and_strangers_log_in_first(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    ada.publish("hello")
    assert ada.get("/posts/1/report").location == "/@ada/1"
    assert ada.post("/posts/1/report", form_on="/home", reason="me").location == "/@ada/1"
    assert ada.post("/@ada/report", form_on="/home", reason="me").location == "/@ada"
    assert visitor.get("/posts/1/report").location == "/login?next=/posts/1/report"
    with app.app_context():
        assert db.session.query(Report).count() == 0


def test_one_person_reports_a_thing_once_and_again_after_the_decision(
    app: Flask, ada: Visitor, bob: Visitor, moderator: Visitor
) -> None:
    ada.publish("hello")
    for reason in ("first", "second"):
        report(bob, "/posts/1", reason)
    page = moderator.get("/moderation").text
    assert ("first" in page, "second" in page, open_reports(moderator)) == (False, True, "1")
    decide(moderator, "dismiss", "ada?post=1")
    assert open_reports(moderator) == ""
    report(bob, "/posts/1", "third")
    assert "third" in moderator.get("/moderation").text


def test_there_is_a_limit_on_reports(ada: Visitor, bob: Visitor) -> None:
    answers = [bob.post("/@ada/report", form_on="/@ada/report", reason="spam").status_code for _ in range(25)]
    assert answers[0] == 302
    assert 429 in answers


def test_reports_of_one_thing_are_one_case_and_the_oldest_comes_first(
    monkeypatch: pytest.MonkeyPatch, ada: Visitor, bob: Visitor, moderator: Visitor
) -> None:
    monkeypatch.setattr("app.models.moderation.CASES", 2)
    monkeypatch.setattr("app.models.moderation.MOST_SHOWN", 1)
    for number in range(3):
        ada.publish(f"number {number}")
    for path in ("/posts/3", "/posts/1", "/@ada"):
        report(bob, path)
    report(moderator, "/posts/3", "me too")
    page = moderator.get("/moderation").text
    assert shown(page) == ["number 2", "number 0"]
    assert "and 1 more" in page
    more = re.search(r'href="(/moderation\?after=\d+)"', page)
    assert more
    page = moderator.get(more[1]).text
    assert shown(page) == []
    assert '/moderation/people/ada"' in page
    assert "?after=" not in page
    assert (
        "That&#39;s all of them." in moderator.get("/moderation?after=999").text
        or "That's all" in moderator.get("/moderation?after=999").text
    )
    assert moderator.get("/moderation?after=x").status_code == 404


def test_the_menu_of_moderators_says_how_many_reports_are_open(
    app: Flask, redis: Redis, ada: Visitor, bob: Visitor, moderator: Visitor
) -> None:
    ada.publish("hello")
    moderator.get("/")
    for path, count in (("/@ada", "1"), ("/posts/1", "2")):
        report(bob, path)
        assert open_reports(moderator) == count
    assert open_reports(ada) is open_reports(bob) is None
    with statements_run(app) as statements:
        assert open_reports(moderator) == "2"
    assert statements == []
    decide(moderator, "dismiss")
    assert open_reports(moderator) == "1"
    bob.follow("mod")
    assert (open_reports(moderator), unread(moderator)) == ("1", "1")


def test_a_dismissed_report_is_closed_and_nothing_else(
    app: Flask, ada: Visitor, bob: Visitor, moderator: Visitor
) -> None:
    ada.publish("hello")
    report(bob, "/posts/1")
    assert decide(moderator, "dismiss", "ada?post=1", "Fine.") == "Dismissed the reports about @ada."
    assert "Nothing to decide." in moderator.get("/moderation").text
    assert "hello" in bob.get("/@ada/1").text
    assert unread(ada) == ""
    assert log(app) == ["@mod dismissed the reports about @ada: Fine."]


def test_a_removed_post_is_gone_everywhere_and_its_author_reads_why(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, moderator: Visitor
) -> None:
    ada.publish("buy my leeks")
    report(bob, "/posts/1")
    for path in ("/", "/@ada", "/@ada/1", "/feed.atom"):
        assert "leeks" in visitor.get(path).text
    assert decide(moderator, "remove-post", "ada?post=1") == "Removed post 1 by @ada."
    for path in ("/", "/@ada", "/@ada/1", "/feed.atom"):
        assert "leeks" not in visitor.get(path).text
    assert open_reports(moderator) == ""
    assert unread(ada) == "1"
    page = ada.get("/notifications").text
    assert "“buy my leeks” Rule 4." in page
    assert "@mod" not in page
    assert told(ada) == ["The moderators removed a post of yours"]
    assert log(app) == ["@mod removed post 1 by @ada: Rule 4."]


def test_a_warning_reaches_even_those_who_have_turned_everything_off(
    app: Flask, ada: Visitor, moderator: Visitor
) -> None:
    ada.post("/settings/notifications")
    assert decide(moderator, "warn", reason="No more leeks.") == "Warned @ada."
    assert unread(ada) == "1"
    assert "No more leeks." in ada.get("/notifications").text
    assert log(app) == ["@mod warned @ada: No more leeks."]


@pytest.mark.parametrize(
    ("choice", "how_long"), [("suspend-1", "for 1 day"), ("suspend-30", "for 30 days"), ("suspend", "for good")]
)
def test_a_moderator_suspends_and_reinstates(
    app: Flask, ada: Visitor, bob: Visitor, moderator: Visitor, choice: str, how_long: str
) -> None:
    report(bob, "/@ada")
    assert decide(moderator, choice) == f"Suspended @ada {how_long}."
    assert not ada.is_signed_in()
    ada.log_in("ada")
    assert "Rule 4." in ada.get("/suspended").text
    assert open_reports(moderator) == ""
    assert decide(moderator, "reinstate", reason="My mistake.") == "Reinstated @ada."
    ada.log_in("ada")
    assert ada.is_signed_in()
    assert log(app) == ["@mod reinstated @ada: My mistake.", f"@mod suspended @ada {how_long}: Rule 4."]


def test_all_posts_of_somebody_who_is_suspended_for_good_may_go(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, moderator: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.models.posts.BATCH", 2)
    for number in range(5):
        ada.publish(f"leeks {number} #leeks")
    bob.publish("stays #leeks")
    report(bob, "/posts/2")
    report(bob, "/@ada")
    assert decide(moderator, "clear") == "Suspended @ada for good and removed all their posts."
    for path in ("/", "/tags/leeks", "/feed.atom", "/search?q=leeks"):
        page = visitor.get(path).text
        assert "stays" in page
        assert "leeks 1" not in page
    assert "No posts yet." in visitor.get("/@ada").text
    assert open_reports(moderator) == ""
    ada.log_in("ada")
    assert "It is suspended for good." in ada.get("/suspended").text


def test_a_moderator_removes_a_spammer_and_all_their_posts_from_every_page_and_feed_in_one_step(
    app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor, moderator: Visitor
) -> None:
    for number in range(3):
        ada.publish(f"cheap leeks {number} @bob #leeks")
    bob.publish("hello #leeks")
    ada.post("/posts", form_on="/@bob/4", body="cheap leeks for you", reply_to="4")
    ada.post("/posts/4/like", form_on="/@bob/4")
    ada.follow("bob")
    report(bob, "/posts/1")
    paths = ["/", "/@bob/4", "/@bob/4/likes", "/@bob/followers", "/tags/leeks", "/people", "/feed.atom"]
    paths += ["/tags/leeks/feed.atom", "/search?q=leeks", "/search?q=ada"]
    for path in paths:
        assert "ada" in visitor.get(path).text.replace("ada?", ""), path
    assert bob.get("/notifications").text.count("ada")
    assert decide(moderator, "remove", "ada?post=1") == "Removed the account of @ada with all its posts."
    for path in paths[:-1]:
        page = visitor.get(path).text
        assert "@ada" not in page, path
        assert "cheap leeks" not in page, path
    assert "/@ada" not in visitor.get("/search?q=ada").text
    for path in ("/@ada", "/@ada/1", "/@ada/feed.atom", "/@ada/followers"):
        assert visitor.get(path).status_code == 404, path
    assert "@ada" not in bob.get("/notifications").text
    assert not ada.is_signed_in()
    assert ada.log_in("ada").status_code == 422
    assert "Nothing to decide." in moderator.get("/moderation").text
    assert open_reports(moderator) == ""
    assert log(app) == ["@mod removed the account of deleted account 1 with all its posts: Rule 4."]


def test_a_decision_needs_a_choice_and_a_reason_and_keeps_what_was_typed(ada: Visitor, moderator: Visitor) -> None:
    answer = moderator.post("/moderation/people/ada", reason="Because.")
    assert answer.status_code == 422
    assert "Choose what to do." in answer.text
    assert ">\r\nBecause.</textarea>" in answer.text or "Because.</textarea>" in answer.text
    answer = moderator.post("/moderation/people/ada", choice="suspend", reason=" ")
    assert answer.status_code == 422
    assert "Give a reason." in answer.text
    assert re.search(r'<input checked[^>]*value="suspend"', answer.text)
    for choice in ("reinstate", "remove-post", "dismiss", "promote", "nonsense"):  # what can't be chosen here
        assert moderator.post("/moderation/people/ada", choice=choice, reason="x").status_code == 422
    assert ada.is_signed_in()


def test_moderators_cannot_act_on_each_other_or_themselves(
    app: Flask, run: Callable[..., Result], ada: Visitor, bob: Visitor, moderator: Visitor
) -> None:
    ada.publish("hello")
    run("user", "promote", "ada")
    report(bob, "/posts/1")
    report(bob, "/@mod")
    page = moderator.get("/moderation/people/ada?post=1").text
    assert re.findall(r'name="choice"[^>]*value="([^"]+)"', page) == ["dismiss"]
    for choice in ("warn", "suspend", "remove", "remove-post"):
        answer = moderator.post("/moderation/people/ada?post=1", choice=choice, reason="x")
        assert answer.status_code == 422
    page = moderator.get("/moderation/people/mod").text
    assert 'name="choice"' not in page
    assert "Only the people who run this site can decide about moderators" in page
    assert (
        moderator.post("/moderation/people/mod", form_on="/moderation", choice="dismiss", reason="x").status_code == 422
    )
    assert decide(ada, "dismiss", "mod") == "Dismissed the reports about @mod."
    assert run("user", "suspend", "mod", "--days", "3", "--reason", "Abuse.").output.startswith(
        "Suspended @mod for 3 days."
    )
    assert moderator.get("/moderation").location == "/login?next=/moderation"
    assert log(app)[0] == "The command line suspended @mod for 3 days: Abuse."


def test_a_post_that_is_deleted_or_somebody_elses_cannot_be_removed(
    ada: Visitor, bob: Visitor, moderator: Visitor
) -> None:
    ada.publish("hello")
    report(bob, "/posts/1")
    ada.post("/posts/1/delete", form_on="/@ada/1")
    page = moderator.get("/moderation").text
    assert "that has been deleted since" in page
    page = moderator.get("/moderation/people/ada?post=1").text
    assert 'value="remove-post"' not in page
    decide(moderator, "warn", "ada?post=1")
    assert "Nothing to decide." in moderator.get("/moderation").text
    bob.publish("his")
    for path in ("ada?post=2", "ada?post=x", "nobody"):
        assert moderator.get(f"/moderation/people/{path}").status_code == 404


def test_the_commands_and_the_pages_say_the_same(
    app: Flask, run: Callable[..., Result], ada: Visitor, bob: Visitor, moderator: Visitor
) -> None:
    bob.publish("one")
    bob.publish("two")
    assert decide(moderator, "remove-post", "bob?post=1") == "Removed post 1 by @bob."
    assert run("post", "remove", "2", "--reason", "Spam.").output.startswith("Removed post 2 by @bob.")
    assert decide(moderator, "suspend-7", "bob") == "Suspended @bob for 7 days."
    assert run("user", "suspend", "ada", "--days", "7").output.startswith("Suspended @ada for 7 days.")
    assert run("user", "reinstate", "ada", "--reason", "Over.").output == "Reinstated @ada.\n"
    assert run("user", "delete", "ada", "--yes").output == "Removed the account of @ada with all its posts.\n"
    assert "“two” Spam." in _notes(app, "bob")[0]


def _notes(app: Flask, name: str) -> list[str]:
    query = text("SELECT note FROM notifications WHERE user_id = :id AND note IS NOT NULL ORDER BY id DESC")
    user_id = id_of(app, name)
    with app.app_context():
        return list(db.session.execute(query, {"id": user_id}).scalars())


def test_the_log_can_only_grow(app: Flask, ada: Visitor, moderator: Visitor) -> None:
    decide(moderator, "warn")
    with app.app_context():
        for statement in ("UPDATE moderation_log SET reason = 'nothing'", "DELETE FROM moderation_log"):
            with pytest.raises(DBAPIError, match="the moderation log can only grow"):
                db.session.execute(text(statement))
            db.session.rollback()
        User.named("ada").delete_account()  # type: ignore[union-attr]
        User.named("mod").delete_account()  # type: ignore[union-attr]
    assert log(app) == ["deleted account 2 warned deleted account 1: Rule 4."]


def test_a_decision_that_cannot_be_stored_is_not_in_the_log(
    app: Flask, ada: Visitor, moderator: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no room left")

    monkeypatch.setattr("app.models.moderation.Moderator._close_reports", fail)
    with app.app_context(), pytest.raises(RuntimeError):
        COMMAND_LINE.suspend(User.named("ada"), "x")  # type: ignore[arg-type]
    assert log(app) == []
    with app.app_context():
        assert not User.named("ada").is_suspended  # type: ignore[union-attr]


def test_the_log_is_read_in_pages(app: Flask, moderator: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.app_context():
        for number in range(51):
            COMMAND_LINE.edit_page("rules", f"number {number}")
    page = moderator.get("/moderation/log").text
    older = re.search(r'href="(/moderation/log\?before=\d+)"', page)
    assert older
    assert "made" in moderator.get(older[1]).text
    assert "edited a page of the site" in page


def test_a_moderator_edits_the_pages_of_the_site(ada: Visitor, visitor: Visitor, moderator: Visitor) -> None:
    assert "Be kind." in moderator.get("/moderation/pages/rules").text
    visitor.get("/rules")
    answer = moderator.post("/moderation/pages/rules", body="Bring biscuits.")
    assert answer.location == "/rules"
    assert "Bring biscuits." in visitor.get("/rules").text
    assert moderator.post("/moderation/pages/rules", body="x" * 20_001).status_code == 422
    assert ada.post("/moderation/pages/rules", form_on="/home", body="Mine.").status_code == 404
    assert moderator.get("/moderation/pages/nothing").status_code == 404


def test_moderators_look_people_up(ada: Visitor, moderator: Visitor) -> None:
    assert moderator.get("/moderation/people?name=+%40ADA").location == "/moderation/people/ada"
    assert moderator.get("/moderation/people?name=nobody").status_code == 404
    assert moderator.get("/moderation/people").status_code == 404


def test_pages_lead_moderators_and_nobody_else_to_what_they_can_do(
    ada: Visitor, bob: Visitor, visitor: Visitor, moderator: Visitor
) -> None:
    ada.publish("hello")
    for path, link in (("/@ada", "/moderation/people/ada"), ("/@ada/1", "/moderation/people/ada?post=1")):
        assert f'href="{link}">Moderate</a>' in moderator.get(path).text
        for other in (ada, bob, visitor):
            assert "Moderate" not in other.get(path).text


@pytest.mark.server
def test_the_front_counts_open_reports_too(
    app: Flask, ada: Visitor, bob: Visitor, moderator: Visitor, front: FrontServer
) -> None:
    ada.publish("hello")
    moderator.get("/home")
    cookie = f"Cookie: session={moderator.session_id()}"
    for path in ("/", "/@ada/1"):
        for _ in range(3):
            reply = front.ask(path, cookie)
        assert reply.early
    report(bob, "/posts/1")
    reply = front.ask("/", cookie)
    assert reply.early
    assert 'Moderation <span class="badge">1<' in reply.text
    assert PASSWORD not in reply.text
