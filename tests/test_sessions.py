"""Sessions, on a real Valkey: what they cost, and what they guarantee."""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask, flash, request
from redis import Redis

from app.config import parse_redis_url
from app.models import User
from app.redis_client import StoreUnavailableError
from app.sessions import (
    ANONYMOUS_LIFETIME,
    FLASHES,
    LARGEST,
    MOST_FLASHES,
    MOST_SESSIONS,
    SEEN_EVERY,
    JsonSerializer,
    NotASessionError,
    PipitSessionInterface,
    Session,
    SignIn,
    current_interface,
    current_session,
)
from tests.conftest import PASSWORD, Visitor, finish, in_threads
from tests.counting import commands_sent
from tests.servers import valkey, wait_until


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def stored(redis: Redis, visitor: Visitor) -> dict[str, Any]:
    value = redis.get(f"session:{visitor.session_id()}")
    return dict(json.loads(str(value)))


def test_a_session_is_a_json_object_that_any_program_can_read(ada: Visitor, redis: Redis) -> None:
    session = stored(redis, ada)
    assert session["name"] == "ada"
    assert isinstance(session["user_id"], int)
    assert 14 * 24 * 3600 - 5 <= redis.ttl(f"session:{ada.session_id()}") <= 14 * 24 * 3600


@pytest.mark.server
def test_a_signed_in_request_costs_one_command_that_reads_and_renews(ada: Visitor, redis: Redis) -> None:
    ada.get("/home")  # shows the welcome
    key = f"session:{ada.session_id()}"
    redis.expire(key, 100)
    with commands_sent(redis) as sent:
        assert ada.get("/settings/password").status_code == 200
    stamps = [command for command in sent if "stamp" in command]  # the number in the bar, whom not to show
    assert len(stamps) == 2
    assert [command for command in sent if command not in stamps] == [f"GETEX {key} EX 1209600"]
    assert redis.ttl(key) > 100


@pytest.mark.server
def test_a_visitor_without_a_session_costs_redis_no_session_command(visitor: Visitor, redis: Redis) -> None:
    with commands_sent(redis) as sent:
        visitor.get("/login")
        visitor.get("/register")
        visitor.get("/healthz")
    assert sent == []


def test_a_million_forms_asked_for_leave_nothing_in_redis(visitor: Visitor, redis: Redis) -> None:
    for _ in range(50):
        visitor.client.delete_cookie("visitor")
        assert "csrf_token" in visitor.get("/login").text
    assert redis.dbsize() == 0


def test_reading_gives_an_anonymous_visitor_no_cookie(visitor: Visitor) -> None:
    for path in ("/", "/nobody", "/healthz"):
        assert "Set-Cookie" not in visitor.get(path).headers


def test_last_seen_is_written_at_most_every_few_minutes(
    ada: Visitor, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada.get("/home")
    before = stored(redis, ada)["seen"]
    moments = iter([before + SEEN_EVERY, before + SEEN_EVERY + 1])
    now = next(moments)
    monkeypatch.setattr("app.sessions.time.time", lambda: now)
    ada.get("/home")
    assert stored(redis, ada)["seen"] == before
    now = next(moments)
    response = ada.get("/home")
    assert stored(redis, ada)["seen"] == now
    assert f"session={ada.session_id()}" in response.headers["Set-Cookie"]
    assert redis.zscore("user:1:sessions", str(ada.session_id())) == now


def test_the_id_changes_at_login_logout_and_password_change(ada: Visitor, redis: Redis) -> None:
    ids = [ada.session_id()]
    ada.post("/settings/password", current_password=PASSWORD, new_password="another good one")
    ids.append(ada.session_id())
    ada.log_out()
    assert ada.session_id() is None
    ada.log_in("ada", "another good one")
    ids.append(ada.session_id())
    assert len(set(ids)) == 3
    assert redis.keys("session:*") == [f"session:{ids[-1]}"]
    assert redis.zrange("user:1:sessions", 0, -1) == [ids[-1]]


def test_a_planted_id_is_never_adopted(new_visitor: Callable[[], Visitor], ada: Visitor, redis: Redis) -> None:
    victim, planted = new_visitor(), "A" * 22
    victim.client.set_cookie("session", planted)
    victim.log_in("ada")
    assert victim.session_id() != planted
    assert redis.exists(f"session:{planted}") == 0


@pytest.mark.parametrize("sid", ["", "x", "A" * 23, "A" * 5000, "../../etc", "a b", "é" * 22])
@pytest.mark.server
def test_an_id_that_cannot_be_one_is_not_even_looked_up(visitor: Visitor, redis: Redis, sid: str) -> None:
    visitor.client.set_cookie("session", sid)
    with commands_sent(redis) as sent:
        assert visitor.get("/login").status_code == 200
    assert sent == []


POISON = {
    "pickle": b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x07user_id\x94K\x01s.",
    "message pack": b"\x81\xa7user_id\x01",
    "truncated": b'{"user_id":1,"name":"ada","se',
    "a list": b'[{"user_id":1}]',
    "a number": b"7",
    "nothing": b"",
    "another program's": b'{"cart":[1,2,3]}',
    "of the wrong types": b'{"user_id":"1","name":"ada","seen":1}',
    "not UTF-8": b'{"user_id":1,"name":"\xff","seen":1}',
    **{
        f"{key}: {value}": b'{"user_id":1,"name":"ada","seen":1,"%s":%s}' % (key.encode(), value.encode())
        for key, values in {
            "user_id": ["0", "-1", "true", "null", "1.5", "1e30", "9223372036854775808"],
            "name": ['""', "1", "null", '["ada"]'],
            "seen": ["-1", "1e400", "1e400", str(10**400), "99999999999999", "null", '"1"'],
            "since": ["-1", str(10**20), "null", '"x"', "{}"],
            "device": ["1", "null", "[]"],
            "address": ["1", "null", "[]"],
            "csrf_token": ["1", '""', "null", "[]"],
            "wrote": ['"1"', "-1", str(10**400), "null", "[]"],
            "_flashes": ["1", '"x"', "null", "{}", "[1]", '["x"]', '[["x"]]', "[[1,2]]", '[["a","b","c"]]', "[null]"],
        }.items()
        for value in values
    },
    "oversized": b'{"user_id":1,"name":"ada","seen":1,"x":"' + b"x" * LARGEST + b'"}',
}


@pytest.mark.parametrize("value", POISON.values(), ids=POISON.keys())
def test_what_is_not_a_session_is_no_session_and_is_logged(
    ada: Visitor, redis: Redis, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    redis.set(f"session:{ada.session_id()}", value)
    assert ada.get("/home").status_code == 302
    caplog.clear()
    for path in ("/", "/login", "/@ada"):
        assert ada.get(path).status_code == 200
    caplog.clear()
    assert ada.get("/home").status_code == 302
    messages = [record.getMessage() for record in caplog.records if "not a session" in record.getMessage()]
    assert len(messages) == 1
    assert "ada" not in messages[0]


def test_a_deeply_nested_value_breaks_nothing(ada: Visitor, redis: Redis) -> None:
    """Whether it is a session depends on how deep this Python goes; it is never an error."""
    nested = b'{"user_id":1,"name":"ada","seen":1,"x":' + b"[" * 5000 + b"]" * 5000 + b"}"
    redis.set(f"session:{ada.session_id()}", nested)
    assert ada.get("/login").status_code in (200, 302)


def test_a_key_of_another_type_is_no_session(ada: Visitor, redis: Redis) -> None:
    key = f"session:{ada.session_id()}"
    redis.delete(key)
    redis.hset(key, "user_id", "1")
    assert ada.get("/home").status_code == 302


def test_what_another_program_adds_to_a_session_stays(ada: Visitor, redis: Redis) -> None:
    key = f"session:{ada.session_id()}"
    redis.set(key, json.dumps(stored(redis, ada) | {"theme": {"dark": True}}))
    assert ada.publish("hello").status_code == 302
    assert stored(redis, ada)["theme"] == {"dark": True}


def test_the_serializer_never_unpickles() -> None:
    with pytest.raises(NotASessionError):
        JsonSerializer().decode(POISON["pickle"])


def pausing(app: Flask, then: Callable[[], None]) -> tuple[threading.Event, threading.Event]:
    """Add a page to the app that begins, waits until it is let go, does `then`, and answers."""
    began, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        go_on.wait(10)
        then()
        return "done"

    app.add_url_rule("/slow", view_func=slow)
    return began, go_on


@pytest.mark.parametrize("ending", ["logout", "revoked", "expired"])
def test_a_slow_request_cannot_bring_back_an_ended_session(app: Flask, redis: Redis, ending: str) -> None:
    began, go_on = pausing(app, lambda: flash("too late"))
    ada, same_browser = Visitor(app.test_client()), Visitor(app.test_client())
    ada.register("ada")
    sid = str(ada.session_id())
    same_browser.client.set_cookie("session", sid)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(same_browser.get("/slow")))
    thread.start()
    assert began.wait(10)
    if ending == "logout":
        ada.log_out()
    elif ending == "revoked":
        with app.test_request_context():
            current_interface().end_all(1)
    else:
        redis.delete(f"session:{sid}")
    go_on.set()
    finish(thread)
    assert answers[0].status_code == 200
    assert redis.exists(f"session:{sid}") == 0
    assert redis.keys("session:*") == []
    assert "session=" not in answers[0].headers.get("Set-Cookie", "")


def test_a_request_under_way_while_the_id_changes_does_not_sign_the_browser_out(app: Flask, redis: Redis) -> None:
    began, go_on = pausing(app, lambda: flash("late news"))
    browser, other_tab = Visitor(app.test_client()), Visitor(app.test_client())
    browser.register("ada")
    old = str(browser.session_id())
    other_tab.client.set_cookie("session", old)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(other_tab.get("/slow")))
    thread.start()
    assert began.wait(10)
    browser.post("/settings/password", current_password=PASSWORD, new_password="another good one")
    go_on.set()
    finish(thread)
    # The late answer, and one to a request that still carried the old id, leave the browser's cookie alone.
    assert "Set-Cookie" not in answers[0].headers
    late = other_tab.get("/home")
    assert not any(header.startswith("session=") for header in late.headers.getlist("Set-Cookie"))
    assert browser.is_signed_in()


def test_two_requests_at_once_keep_each_others_changes(app: Flask, redis: Redis) -> None:
    def change() -> str:
        current_session()[request.args["key"]] = "here"
        flash(request.args["key"])
        return "changed"

    app.add_url_rule("/change", view_func=change)
    ada = Visitor(app.test_client())
    ada.register("ada")
    ada.get("/home")
    browsers = [Visitor(app.test_client()) for _ in range(8)]
    for browser in browsers:
        browser.client.set_cookie("session", str(ada.session_id()))
    in_threads(len(browsers), lambda number: browsers[number].get(f"/change?key=k{number}"))
    session = stored(redis, ada)
    assert {f"k{number}" for number in range(8)} <= session.keys()
    assert sorted(message for _, message in session[FLASHES]) == [f"k{number}" for number in range(8)]


def test_a_message_that_was_shown_does_not_come_back() -> None:
    shown = Session({"name": "ada", FLASHES: [["message", "old"]]})
    shown.pop(FLASHES)
    assert shown.changes_to({"name": "ada", FLASHES: [["message", "old"], ["message", "new"]]}) == {
        "name": "ada",
        FLASHES: [("message", "new")],
    }
    added = Session({"name": "ada", FLASHES: [["message", "old"]]})
    added[FLASHES] = [["message", "old"], ("message", "mine")]
    assert added.changes_to({"name": "ada"}) == {"name": "ada", FLASHES: [("message", "mine")]}


def test_messages_of_the_same_words_are_each_shown_once() -> None:
    adding = Session({FLASHES: [["message", "Published."]]})
    adding[FLASHES] = [["message", "Published."], ("message", "Published.")]
    assert adding.changes_to({}) == {FLASHES: [("message", "Published.")]}  # another request has shown the first


def test_messages_that_nobody_looks_at_do_not_pile_up(visitor: Visitor) -> None:
    for _ in range(MOST_FLASHES + 5):
        visitor.get("/home")
    assert visitor.get("/login").text.count('class="flash"') == MOST_FLASHES

    messages = [("message", str(number)) for number in range(400)]
    many = Session({"name": "ada"})
    many[FLASHES] = list(messages)
    assert many.changes_to({"name": "ada"})[FLASHES] == messages[-MOST_FLASHES:]


def test_a_user_has_so_many_sessions_and_then_the_one_used_least_recently_ends(
    app: Flask, ada: Visitor, redis: Redis
) -> None:
    interface = app.session_interface
    assert isinstance(interface, PipitSessionInterface)
    first, index = str(ada.session_id()), "user:1:sessions"
    with app.test_request_context():
        for number in range(MOST_SESSIONS - 1):
            interface.begin(Session(), SignIn(1, "ada", f"device {number}"))
        assert ada.is_signed_in()
        redis.zadd(index, {first: time.time() - 60})
        interface.begin(Session(), SignIn(1, "ada", "one more"))
    assert not ada.is_signed_in()
    assert redis.zcard(index) == MOST_SESSIONS
    assert len(redis.keys("session:*")) == MOST_SESSIONS


def test_the_inherited_way_to_another_id_is_refused(app: Flask) -> None:
    with pytest.raises(NotImplementedError):
        app.session_interface.regenerate(Session())  # type: ignore[attr-defined]


def test_a_removed_key_stays_removed_and_an_unknown_one_stays() -> None:
    session = Session({"name": "ada", "csrf_token": "x", "wrote": 1})
    del session["wrote"]
    session["csrf_token"] = "y"
    stored = {"name": "ada", "csrf_token": "x", "wrote": 1, "elsewhere": True}
    assert session.changes_to(stored) == {"name": "ada", "csrf_token": "y", "elsewhere": True}


def test_a_forged_or_old_anonymous_cookie_is_nothing(visitor: Visitor) -> None:
    visitor.get("/login")
    cookie = visitor.client.get_cookie("visitor")
    assert cookie is not None
    visitor.client.set_cookie("visitor", cookie.value[:-2] + "xx")
    assert visitor.get("/").status_code == 200
    visitor.client.set_cookie("visitor", "rubbish")
    assert visitor.post("/logout", form_on="/healthz").status_code == 400


def test_an_anonymous_cookie_can_sign_nobody_in(app: Flask, visitor: Visitor, ada: Visitor) -> None:
    from flask.sessions import SecureCookieSessionInterface

    signer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert signer is not None
    visitor.client.set_cookie("visitor", str(signer.dumps({"user_id": 1, "name": "ada", "seen": 1})))
    assert not visitor.is_signed_in()


def test_people_see_where_they_are_signed_in_and_can_end_it(
    app: Flask, new_visitor: Callable[..., Visitor], ada: Visitor
) -> None:
    phone = new_visitor(
        HTTP_USER_AGENT="Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile Safari/604.1",
        REMOTE_ADDR="198.51.100.7",
    )
    phone.log_in("ada")
    page = ada.get("/settings/sessions").text
    assert "Safari on iPhone" in page
    assert "198.51.100.7" in page
    assert page.count("This device") == 1
    assert str(phone.session_id()) not in page
    handle = page.split("/settings/sessions/")[1].split("/end")[0]
    assert ada.post(f"/settings/sessions/{handle}/end", form_on="/settings/sessions").status_code == 302
    assert not phone.is_signed_in()
    assert ada.is_signed_in()
    ada.post(f"/settings/sessions/{handle}/end", form_on="/settings/sessions")
    assert "was already logged out" in ada.get("/settings/sessions").text


def test_nobody_can_end_somebody_elses_session(ada: Visitor, bob: Visitor, app: Flask) -> None:
    with app.test_request_context():
        handle = current_interface().active(2)[0].handle
    ada.post(f"/settings/sessions/{handle}/end", form_on="/settings/sessions")
    assert bob.is_signed_in()


def test_all_others_end_at_once_on_every_process(make_app: Callable[[], Flask]) -> None:
    one, two = make_app(), make_app()
    here, there = Visitor(one.test_client()), Visitor(two.test_client())
    here.register("ada")
    there.log_in("ada")
    assert there.is_signed_in()
    here.post("/settings/sessions/end-others", form_on="/settings/sessions")
    assert not there.is_signed_in()
    assert here.is_signed_in()


def test_the_index_forgets_expired_sessions_and_expires_with_the_newest(
    ada: Visitor, new_visitor: Callable[[], Visitor], redis: Redis
) -> None:
    redis.zadd("user:1:sessions", {"long gone": 1000})
    new_visitor().log_in("ada")
    assert redis.zscore("user:1:sessions", "long gone") is None
    assert 0 < redis.ttl("user:1:sessions") <= 14 * 24 * 3600 + SEEN_EVERY


def test_a_session_outlives_the_process_that_made_it(make_app: Callable[[], Flask]) -> None:
    first = Visitor(make_app().test_client())
    first.register("ada")
    after_restart = Visitor(make_app().test_client())
    after_restart.client.set_cookie("session", str(first.session_id()))
    assert after_restart.is_signed_in()


@pytest.mark.server
def test_an_old_server_without_getex_still_keeps_sessions(make_app: Callable[..., Flask]) -> None:
    old: dict[str, Any] = {"rename-command": 'GETEX ""'}
    with valkey(**old) as server, Redis(port=server.port) as redis:
        ada = Visitor(make_app(redis=parse_redis_url(f"redis://127.0.0.1:{server.port}/0")).test_client())
        ada.register("ada")
        redis.expire(f"session:{ada.session_id()}", 100)
        assert ada.is_signed_in()
        assert redis.ttl(f"session:{ada.session_id()}") > 100


@pytest.mark.server
def test_a_replica_is_not_believed_and_signs_nobody_out(make_app: Callable[..., Flask]) -> None:
    """It may lack the session of somebody who has just logged in at the new primary."""
    with valkey() as server, Redis(port=server.port) as redis:
        ada = Visitor(make_app(redis=parse_redis_url(f"redis://127.0.0.1:{server.port}/0")).test_client())
        ada.register("ada")
        redis.replicaof("127.0.0.1", "1")
        assert ada.get("/home").status_code == 503
        redis.replicaof("NO", "ONE")
        wait_until(ada.is_signed_in, "the circuit to close")


def test_two_apps_share_a_server_by_their_prefixes(make_app: Callable[..., Flask], redis: Redis) -> None:
    app = make_app(redis_prefix="one:")
    Visitor(app.test_client()).register("ada")
    assert all(str(key).startswith("one:") for key in redis.keys("*"))
    with app.test_request_context():
        assert current_interface().count() == (1, True)


@pytest.mark.server
def test_without_redis_nobody_is_taken_for_signed_out(
    make_app: Callable[..., Flask], ada: Visitor, redis: Redis
) -> None:
    away = Visitor(make_app(redis=parse_redis_url("redis://127.0.0.1:1/0")).test_client())
    away.client.set_cookie("session", str(ada.session_id()))
    response = away.get("/home")
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers


class TestCommandLine:
    def test_it_lists_counts_and_revokes(self, app: Flask, ada: Visitor, bob: Visitor, redis: Redis) -> None:
        run = app.test_cli_runner().invoke
        redis.hset("session:of-another-program", "a", "b")
        assert run(args=["sessions", "count"]).output == "2 sessions of 2 users\n"
        listed = run(args=["sessions", "list"]).output
        assert "ada" in listed
        assert "bob" in listed
        assert str(ada.session_id()) not in listed
        handle = run(args=["sessions", "list", "--user", "ada"]).output.split()[1]
        assert run(args=["sessions", "revoke", "ada", "--session", "0" * 16]).exit_code == 1
        assert run(args=["sessions", "revoke", "ada", "--session", handle]).output.startswith("Ended the session")
        assert not ada.is_signed_in()
        assert run(args=["sessions", "revoke", "bob"]).output == "Ended 1 session of bob.\n"
        assert not bob.is_signed_in()

    @pytest.mark.server
    def test_it_says_who_is_unknown_and_that_redis_is_away(self, app: Flask, make_app: Callable[..., Flask]) -> None:
        result = app.test_cli_runner().invoke(args=["sessions", "revoke", "nobody"])
        assert result.exit_code == 1
        assert "no user named 'nobody'" in result.output
        away = make_app(redis=parse_redis_url("redis://127.0.0.1:1/0"))
        result = away.test_cli_runner().invoke(args=["sessions", "count"])
        assert result.exit_code == 1
        assert "Redis can't be used" in result.output
        assert "Traceback" not in result.output


def test_times_in_the_list_are_utc(app: Flask, ada: Visitor) -> None:
    with app.test_request_context():
        place = current_interface().active(1)[0]
    assert place.since.tzinfo is UTC
    assert abs((datetime.now(UTC) - place.seen).total_seconds()) < 5


def test_the_index_lives_at_least_as_long_as_the_session_that_was_used_last(ada: Visitor, redis: Redis) -> None:
    """Or "log out everywhere" would miss sessions that are still there."""
    assert redis.ttl("user:1:sessions") >= redis.ttl(f"session:{ada.session_id()}") > 0


def test_an_anonymous_cookie_that_is_too_old_is_nothing(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor.get("/home")  # sends strangers to the login page, with a message
    cookie = visitor.client.get_cookie("visitor")
    assert cookie
    now = time.time()
    for later, shown in ((ANONYMOUS_LIFETIME - 5, True), (ANONYMOUS_LIFETIME + 5, False)):
        visitor.client.set_cookie("visitor", cookie.value)
        monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + later)  # noqa: B023
        assert ("Log in to see this page." in visitor.get("/login").text) == shown
        monkeypatch.undo()


def test_a_password_is_not_changed_if_the_other_sessions_cannot_be_ended(
    ada: Visitor, new_visitor: Callable[[], Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise StoreUnavailableError("away")

    with monkeypatch.context() as patched:
        patched.setattr(PipitSessionInterface, "end_all", refuse)
        answer = ada.post("/settings/password", current_password=PASSWORD, new_password="another good one")
    assert answer.status_code == 503
    stranger = new_visitor()
    stranger.log_in("ada", PASSWORD)
    assert stranger.is_signed_in()


def test_nobody_stays_who_comes_in_with_the_old_password_while_it_is_changed(
    ada: Visitor, new_visitor: Callable[[], Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    thief = new_visitor()
    store_hash = User._store_hash

    def log_in_first(user: User, *change: Any, **more: Any) -> bool:
        in_threads(1, lambda _number: thief.log_in("ada", PASSWORD))
        assert thief.session_id()
        return store_hash(user, *change, **more)

    monkeypatch.setattr(User, "_store_hash", log_in_first)
    ada.post("/settings/password", current_password=PASSWORD, new_password="another good one")
    assert thief.session_id()
    assert not thief.is_signed_in()
    assert ada.is_signed_in()
