"""E-mail addresses: back in without the password, confirming, changing; and that nobody learns who is registered."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable

import pytest
from flask import Flask
from pyotp import TOTP
from redis import Redis

from app.models import SecondFactor, User
from app.models.addresses import CONFIRM_LIFETIME
from app.models.mail import Mail
from app.models.second_factor import new_secret
from app.rate_limit import MAILS
from tests.conftest import PASSWORD, Mailbox, Visitor, id_of
from tests.counting import statements_run

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ADDRESS = "ada@example.org"
ANOTHER = "another sentence to remember"
CHANGES = ("date", "x-request-id", "set-cookie")
SECONDS = re.compile(r"t=\d+$")  # until the limit's window ends
DYNAMIC = re.compile(r'value="[^"]*"|name="csrf_token"[^>]*')


@pytest.fixture
def ada(ada: Visitor, mailbox: Mailbox) -> Visitor:
    """Give a visitor who is signed in as ada, and has an address."""
    mailbox.confirm(ada, ADDRESS)
    return ada


@pytest.fixture
def insistent(make_app: Callable[..., Flask]) -> Flask:
    return make_app(confirm_email=True)


def address_of(app: Flask, name: str = "ada") -> tuple[str | None, str | None]:
    """Return an account's address, and the one that is not confirmed yet."""
    with app.app_context():
        user = User.named(name)
        assert user
        return user.email, user.new_email


def error_at(page: str, field: str) -> str | None:
    found = re.search(rf'<p class="field-error" id="{field}-error">(.*?)</p>', page)
    return found[1] if found else None


# A forgotten password


def test_who_lost_the_password_is_back_with_three_forms(ada: Visitor, visitor: Visitor, mailbox: Mailbox) -> None:
    assert 'href="/forgot"' in visitor.get("/login").text
    answer = visitor.post("/forgot", email=" Ada@Example.ORG ")
    assert answer.headers["Location"] == "/forgot/sent"
    assert "If there&#39;s an account" in visitor.get("/forgot/sent").text.replace("there's", "there&#39;s")
    (mail,) = mailbox.fetch()
    assert (mail.to, mail.subject) == (ADDRESS, "Choose a new password for @ada")
    assert visitor.post(mail.path, new_password=ANOTHER).headers["Location"] == "/login"
    assert visitor.log_in(ADDRESS, ANOTHER).status_code == 302
    assert not ada.is_signed_in()


def test_a_link_that_was_sent_to_an_earlier_address_opens_nothing(
    ada: Visitor, visitor: Visitor, mailbox: Mailbox
) -> None:
    visitor.post("/forgot", email=ADDRESS)
    (mail,) = mailbox.fetch()
    assert visitor.get(mail.path).status_code == 200
    mailbox.confirm(ada, "ada@new.example.org")
    assert visitor.get(mail.path).status_code == 410


def test_the_answer_is_the_same_for_a_known_and_an_unknown_address(
    app: Flask, ada: Visitor, new_visitor: Callable[..., Visitor], mailbox: Mailbox
) -> None:
    answers, costs = [], []
    for address in (ADDRESS, "nobody@example.org"):
        visitor = new_visitor(REMOTE_ADDR="192.0.2.66")
        with statements_run(app) as statements:
            answer = visitor.post("/forgot", email=address)
        headers = {name: SECONDS.sub("", value) for name, value in answer.headers if name.lower() not in CHANGES}
        answers.append((answer.status_code, DYNAMIC.sub("", answer.text), headers))
        costs.append(statements)
    assert answers[0] == answers[1]
    assert costs[0] == costs[1]
    assert [statement.split()[0] for statement in costs[0]] == ["INSERT"]
    assert [mail.to for mail in mailbox.fetch()] == [ADDRESS]


def test_the_limit_is_the_same_for_a_known_and_an_unknown_address(
    ada: Visitor, new_visitor: Callable[..., Visitor], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.rate_limit.time.time", lambda: 1_800_000_000.0)
    redis.flushdb()
    for address in (ADDRESS, "nobody@example.org"):
        visitor = new_visitor()
        statuses = [visitor.post("/forgot", email=address).status_code for _ in range(MAILS + 1)]
        assert statuses == [302] * MAILS + [429]
        assert "Try again in 60 minutes." in visitor.post("/forgot", email=address.upper()).text


def test_a_stranger_cannot_tell_that_somebody_has_asked_for_an_address(
    ada: Visitor, new_visitor: Callable[..., Visitor], redis: Redis
) -> None:
    stranger = new_visitor(REMOTE_ADDR="192.0.2.66")
    for _ in range(3):
        ada.post("/forgot", email=ADDRESS)
    left = [stranger.post("/forgot", email=email).headers["RateLimit"] for email in (ADDRESS, "nobody@example.org")]
    assert left[0].startswith(f'"mail-to";r={MAILS - 1};')
    assert left[1].startswith(f'"mail-to";r={MAILS - 1};')


def test_strangers_cannot_flood_a_mailbox(
    ada: Visitor, new_visitor: Callable[..., Visitor], mailbox: Mailbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.rate_limit.time.time", lambda: 1_800_000_000.0)
    for number in range(3 * MAILS):
        answer = new_visitor(REMOTE_ADDR=f"192.0.2.{number}").post("/forgot", email=ADDRESS)
        assert answer.status_code == 302
    mails = mailbox.fetch()
    assert len(mails) == MAILS
    assert new_visitor().post(mails[0].path, new_password=ANOTHER).status_code == 302


def test_what_is_no_address_is_said_beside_the_field(visitor: Visitor, mailbox: Mailbox) -> None:
    for typed, said in (("", "Enter your e-mail address."), ("ada", "That doesn&#39;t look like an e-mail address")):
        answer = visitor.post("/forgot", email=typed)
        assert answer.status_code == 422
        assert (error_at(answer.text, "email") or "").startswith(said)
    assert mailbox.fetch() == []


def test_a_site_without_mail_says_so_where_it_matters(make_app: Callable[..., Flask]) -> None:
    app = make_app(trusted_proxies=1)
    visitor = Visitor(app.test_client())
    assert 'name="email"' not in visitor.get("/register").text
    answer = visitor.post("/register", username="ada", email=ADDRESS, password=PASSWORD)
    assert answer.status_code == 302
    for page in (visitor.get("/forgot"), visitor.post("/forgot", form_on="/home", email=ADDRESS)):
        assert page.status_code == 200
        assert "This site sends no mail." in page.text
        assert 'name="email"' not in page.text
    page = visitor.get("/settings/account")
    assert "This site sends no mail" in page.text
    assert address_of(app) == (None, None)
    with app.app_context():
        assert Mail.unsent() == []


def test_without_mail_an_address_from_before_can_be_removed(make_app: Callable[..., Flask]) -> None:
    app = make_app(trusted_proxies=1)
    with app.app_context():
        User.register("ada", ADDRESS, PASSWORD)
    visitor = Visitor(app.test_client())
    visitor.log_in("ada")
    answer = visitor.post("/settings/account", email="new@example.org", password=PASSWORD)
    assert error_at(answer.text, "email") == "This site sends no mail, so it can&#39;t confirm another address."
    assert visitor.post("/settings/account", email="", password=PASSWORD).status_code == 302
    assert address_of(app) == (None, None)
    with app.app_context():
        assert Mail.unsent() == []


# Registering with an address


def test_an_address_belongs_to_a_new_account_once_it_is_confirmed(
    app: Flask, visitor: Visitor, new_visitor: Callable[..., Visitor], mailbox: Mailbox
) -> None:
    visitor.post("/register", username="ada", email="Ada@Example.org", password=PASSWORD)
    assert "We&#39;ve sent a link to Ada@Example.org." in visitor.get("/home").text
    assert address_of(app) == (None, ADDRESS)
    assert new_visitor().log_in(ADDRESS).status_code == 422
    (mail,) = mailbox.fetch()
    phone = new_visitor()  # where nobody is logged in
    for _ in range(2):  # a program that opens links confirms nothing
        page = phone.get(mail.path)
        assert f"Is <strong>{ADDRESS}</strong> the e-mail address of @ada?" in page.text
        assert page.headers["Cache-Control"] == "no-store"
    assert address_of(app) == (None, ADDRESS)
    assert phone.post(mail.path).headers["Location"] == "/confirmed"
    assert address_of(app) == (ADDRESS, None)
    assert new_visitor().log_in(ADDRESS).status_code == 302
    assert phone.get(mail.path).status_code == 410


def test_registering_with_somebody_elses_address_looks_the_same_and_its_owner_is_told(
    app: Flask, ada: Visitor, new_visitor: Callable[..., Visitor], mailbox: Mailbox
) -> None:
    answers, costs = [], []
    for name, address in (("eve", ADDRESS), ("eva", "eva@example.org")):
        visitor = new_visitor()
        with statements_run(app) as statements:
            answers.append(visitor.post("/register", username=name, email=address, password=PASSWORD).status_code)
        costs.append(statements)
        page = visitor.get("/settings/account").text
        assert address in page
        answers.append(re.sub(rf"{name}|{address}|{DYNAMIC.pattern}|face-\S+", "", page).count("\n"))
    assert answers[:2] == answers[2:]
    assert costs[0] == costs[1]
    to_owner, to_eva = mailbox.fetch()
    assert (to_owner.to, to_owner.subject) == (ADDRESS, "You already have an account")
    assert "eve" not in to_owner.text
    assert to_owner.path == "/forgot"
    assert to_eva.subject == "Confirm your e-mail address"
    assert address_of(app, "ada") == (ADDRESS, None)


def test_an_address_that_another_account_confirmed_meanwhile_is_said_to_be_taken(
    app: Flask, new_visitor: Callable[..., Visitor], mailbox: Mailbox
) -> None:
    for name in ("first", "second"):
        new_visitor().post("/register", username=name, email=ADDRESS, password=PASSWORD)
    first, second = mailbox.fetch()
    assert new_visitor().post(first.path).status_code == 302
    answer = new_visitor().post(second.path)
    assert answer.status_code == 410
    assert "Meanwhile this address was confirmed for another account." in answer.text
    assert address_of(app, "second") == (None, ADDRESS)


def test_a_confirmation_ends_after_a_day(visitor: Visitor, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor.post("/register", username="ada", email=ADDRESS, password=PASSWORD)
    (mail,) = mailbox.fetch()
    monkeypatch.setattr("app.models.addresses.CONFIRM_LIFETIME", -1)
    assert visitor.get(mail.path).status_code == 410
    assert CONFIRM_LIFETIME == 24 * 3600


@pytest.mark.parametrize("token", ["x", "a.b.c", "%00", "é", "..", "WzEsMF0.awY8QQ.a_R0swWGktjPCuXSc0wvq19qIWk"])
def test_a_forged_confirmation_is_dead(ada: Visitor, visitor: Visitor, token: str) -> None:
    assert visitor.get(f"/confirm/{token}").status_code in (404, 410)


def test_a_link_to_reset_a_password_confirms_nothing_and_the_other_way_round(
    visitor: Visitor, mailbox: Mailbox, ada: Visitor
) -> None:
    visitor.post("/forgot", email=ADDRESS)
    ada.post("/settings/account", email="new@example.org", password=PASSWORD)
    reset, confirm = mailbox.fetch()
    assert visitor.get(reset.path.replace("/reset/", "/confirm/")).status_code == 410
    assert visitor.get(confirm.path.replace("/confirm/", "/reset/")).status_code == 410


def test_a_link_does_not_name_the_address(visitor: Visitor, mailbox: Mailbox) -> None:
    """Paths are logged."""
    visitor.post("/register", username="ada", email=ADDRESS, password=PASSWORD)
    (mail,) = mailbox.fetch()
    payload = mail.path.split("/")[2].split(".")[0]
    assert b"ada" not in urlsafe_b64decode(payload + "==")


# Changing the address


def test_a_new_address_is_confirmed_and_the_old_one_told(app: Flask, ada: Visitor, mailbox: Mailbox) -> None:
    answer = ada.post("/settings/account", email="New@example.org", password=PASSWORD)
    assert answer.headers["Location"] == "/settings/account"
    assert "We&#39;ve sent a link to new@example.org." in ada.get("/settings/account").text
    (confirm,) = mailbox.fetch()
    assert confirm.to == "new@example.org"
    assert address_of(app) == (ADDRESS, "new@example.org")
    ada.post(confirm.path)
    assert address_of(app) == ("new@example.org", None)
    (told,) = mailbox.fetch()
    assert (told.to, told.subject) == (ADDRESS, "Your e-mail address was changed")
    assert "new@example.org" not in told.text


def test_the_owner_is_told_that_the_password_was_changed(
    app: Flask, ada: Visitor, bob: Visitor, mailbox: Mailbox
) -> None:
    ada.post("/settings/password", current_password=PASSWORD, new_password=ANOTHER)
    bob.post("/settings/password", current_password=PASSWORD, new_password=ANOTHER)  # who has no address
    (told,) = mailbox.fetch()
    assert (told.to, told.subject) == (ADDRESS, "Your password was changed")
    assert told.path == "/forgot"


def test_the_owner_is_told_that_two_factor_authentication_is_on_or_off(
    app: Flask, ada: Visitor, mailbox: Mailbox
) -> None:
    with app.app_context():
        secret = new_secret()
        assert SecondFactor.turn_on(id_of(app, "ada"), secret, "no code") is None
        assert SecondFactor.turn_on(id_of(app, "ada"), secret, TOTP(secret).now())
        assert SecondFactor.turn_off(id_of(app, "ada"))
        assert not SecondFactor.turn_off(id_of(app, "ada"))
    on, off = mailbox.fetch()
    assert on.subject == "Two-factor authentication was turned on"
    assert off.subject == "Two-factor authentication was turned off"


def test_an_address_can_be_removed_and_is_told(app: Flask, ada: Visitor, mailbox: Mailbox) -> None:
    assert ada.post("/settings/account", email="", password=PASSWORD).status_code == 302
    assert "Your account has no address" in ada.get("/settings/account").text
    assert address_of(app) == (None, None)
    assert [mail.to for mail in mailbox.fetch()] == [ADDRESS]


def test_the_address_of_somebody_else_is_not_given_away_by_the_settings(
    app: Flask, ada: Visitor, bob: Visitor, mailbox: Mailbox
) -> None:
    for address in (ADDRESS, "free@example.org"):
        answer = bob.post("/settings/account", email=address, password=PASSWORD)
        assert answer.status_code == 302
        assert f"We&#39;ve sent a link to {address}." in bob.get("/settings/account").text
    assert [mail.subject for mail in mailbox.fetch()] == ["Confirm your e-mail address"]  # ada's is void by now
    bob.post("/settings/account", email=ADDRESS, password=PASSWORD)
    assert [(mail.to, mail.subject) for mail in mailbox.fetch()] == [(ADDRESS, "You already have an account")]


def test_without_the_password_nothing_changes_and_guesses_are_counted(app: Flask, ada: Visitor, redis: Redis) -> None:
    redis.delete(*redis.keys("limit:*"))
    statuses = [
        ada.post("/settings/account", email="new@example.org", password="a guess").status_code for _ in range(6)
    ]
    assert statuses[:4] == [422] * 4
    assert statuses[-1] == 429 or statuses.count(422) >= 5  # a new minute may begin meanwhile
    assert address_of(app) == (ADDRESS, None)


def test_what_was_typed_is_kept_with_what_is_wrong(ada: Visitor) -> None:
    answer = ada.post("/settings/account", email="new@example", password="a guess")
    assert answer.status_code == 422
    assert 'value="new@example"' in answer.text
    assert "a guess" not in answer.text
    answer = ada.post("/settings/account", email="new@example.org", password="a guess")
    assert error_at(answer.text, "password") == "That&#39;s not your password."


def test_a_new_password_voids_a_link_that_somebody_else_asked_for(
    app: Flask, ada: Visitor, visitor: Visitor, mailbox: Mailbox
) -> None:
    ada.post("/settings/account", email="evil@example.org", password=PASSWORD)  # somebody with her password did that
    visitor.post("/forgot", email=ADDRESS)
    evil, reset = mailbox.fetch()
    assert visitor.post(reset.path, new_password=ANOTHER).status_code == 302
    assert visitor.get(evil.path).status_code == 410
    assert address_of(app)[0] == ADDRESS


def test_the_last_link_counts_and_the_confirmed_address_voids_it(app: Flask, ada: Visitor, mailbox: Mailbox) -> None:
    ada.post("/settings/account", email="one@example.org", password=PASSWORD)
    (one,) = mailbox.fetch()
    ada.post("/settings/account", email="two@example.org", password=PASSWORD)
    (two,) = mailbox.fetch()
    assert ada.get(one.path).status_code == 410
    assert ada.get(two.path).status_code == 200
    ada.post("/settings/account", email=ADDRESS, password=PASSWORD)
    assert ada.get(two.path).status_code == 410
    assert address_of(app) == (ADDRESS, None)


def test_the_link_can_be_sent_again_until_the_limit(ada: Visitor, mailbox: Mailbox, redis: Redis) -> None:
    redis.delete(*redis.keys("limit:*"))
    ada.post("/settings/account", email="new@example.org", password=PASSWORD)
    statuses = [ada.post("/settings/account/send-again", form_on="/settings/account").status_code for _ in range(MAILS)]
    assert 429 in statuses or len(set(redis.keys("limit:mail-to:*"))) > 1  # a new hour may begin meanwhile
    mails = mailbox.fetch()
    assert {mail.to for mail in mails} == {"new@example.org"}
    assert ada.post(mails[0].path).status_code == 302


def test_a_stranger_cannot_see_the_settings(visitor: Visitor) -> None:
    assert visitor.get("/settings/account").headers["Location"] == "/login?next=/settings/account"


def test_deleting_the_account_deletes_the_mails_that_wait(app: Flask, ada: Visitor, redis: Redis) -> None:
    ada.post("/settings/account", email="new@example.org", password=PASSWORD)
    with app.app_context():
        assert [mail.user_id for mail in Mail.unsent()] == [1]
        user = User.with_id(1)
        assert user
        user.delete_account()
        assert Mail.unsent() == []


# Where the site asks for an address


def test_a_site_that_insists_asks_everyone_for_an_address(insistent: Flask) -> None:
    visitor = Visitor(insistent.test_client())
    answer = visitor.post("/register", username="ada", password=PASSWORD)
    assert answer.status_code == 422
    assert error_at(answer.text, "email") == "Enter your e-mail address."


def test_there_nobody_posts_likes_or_follows_before_the_address_is_confirmed(insistent: Flask) -> None:
    mailbox, bob, ada = Mailbox(insistent), Visitor(insistent.test_client()), Visitor(insistent.test_client())
    for visitor, name in ((bob, "bob"), (ada, "ada")):
        visitor.post("/register", username=name, email=f"{name}@example.org", password=PASSWORD)
        assert visitor.is_signed_in()
    bob.post(mailbox.fetch()[0].path)
    assert bob.publish("hello").status_code == 302
    attempts: dict[str, dict[str, str]] = {
        "/posts": {"body": "a thought & more"},
        "/posts/1/like": {},
        "/@bob/follow": {},
    }
    for path, fields in attempts.items():
        answer = ada.post(path, form_on="/home", **fields)
        assert answer.status_code == 403
        assert "Confirm your address first" in answer.text
        assert 'action="/settings/account/send-again"' in answer.text
    assert "a thought &amp; more</textarea>" in ada.post("/posts", form_on="/home", body="a thought & more").text
    assert ada.get("/@bob").status_code == ada.get("/settings/profile").status_code == 200
    again = ada.post("/settings/account/send-again", form_on="/home")
    assert again.status_code == 302
    (mail,) = mailbox.fetch()
    ada.post(mail.path)
    for path, fields in attempts.items():
        assert ada.post(path, form_on="/home", **fields).status_code == 302
    answer = ada.post("/settings/account", email="", password=PASSWORD)
    assert error_at(answer.text, "email") == "This site asks everyone for an e-mail address."


def test_there_an_account_from_before_is_asked_to_add_an_address(insistent: Flask) -> None:
    with insistent.app_context():
        User.register("old", None, PASSWORD)
    visitor = Visitor(insistent.test_client())
    visitor.log_in("old")
    answer = visitor.publish("hello")
    assert answer.status_code == 403
    assert 'href="/settings/account"' in answer.text
    assert "send-again" not in answer.text
    assert id_of(insistent, "old") == 1


def test_elsewhere_nobody_needs_an_address(bob: Visitor) -> None:
    assert bob.publish("hello").status_code == 302
