"""Bytes that nobody types: on both databases they are an answer in plain words, never a 500."""

import io
import re

import pytest
from flask import Flask

from tests.conftest import Visitor


def test_a_null_in_a_form_is_refused_beside_its_field(visitor: Visitor) -> None:
    answer = visitor.post("/register", username="a\0da", email="a\0da@example.org", password="correct\0horse")
    assert answer.status_code == 422
    assert "Use only letters from a to z, digits and _." in answer.text
    assert "look like an e-mail address" in answer.text


@pytest.mark.parametrize("login", ["a\0da@example.org", "ada@", "@", "a" * 300 + "@example.org"])
def test_an_address_that_can_be_none_is_nobodys(ada: Visitor, visitor: Visitor, login: str) -> None:
    assert visitor.log_in(login).status_code == 422


def test_a_null_in_a_name_or_password_is_just_a_wrong_one(ada: Visitor, visitor: Visitor) -> None:
    assert visitor.log_in("ada\0").status_code == 422
    assert visitor.log_in("ada", password="x\0y").status_code == 422


@pytest.mark.parametrize("tag", ["%00", "a%00b"])
def test_a_hashtag_with_a_null_is_a_404(visitor: Visitor, tag: str) -> None:
    assert visitor.get(f"/tags/{tag}").status_code == 404


@pytest.mark.parametrize("tag", ["%FF", "%ED%A0%80", "%0A", "'", "%25", "<b>", "😀", "%E2%80%AE"])
def test_a_hashtag_that_nobody_can_write_is_an_empty_page(visitor: Visitor, tag: str) -> None:
    answer = visitor.get(f"/tags/{tag}")
    assert answer.status_code == 200
    assert "No posts with this hashtag" in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize("path", ["/%00", "/@", "/@/", "/@%2F", "//", "/..%2f..%2fetc/passwd", "/static/%00", "/%FF"])
def test_a_path_that_leads_nowhere_never_breaks(visitor: Visitor, path: str) -> None:
    assert visitor.get(path, follow_redirects=True).status_code in {200, 404}


def test_bytes_that_are_no_text_in_a_form_break_nothing(ada: Visitor) -> None:
    page = ada.client.post(
        "/posts", data=b"body=%FF%ED%A0%80&csrf_token=\xff", content_type="application/x-www-form-urlencoded"
    )
    assert page.status_code == 400


def test_a_broken_upload_form_breaks_nothing(ada: Visitor) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x", "application/json", "x"):
        assert ada.client.post("/posts", data=b"--x\r\nbody", content_type=content_type).status_code == 400


@pytest.mark.parametrize("cookie", ["", "x", "\xff" * 22, "A" * 22, "A" * 4000, "../../session", "é"])
def test_a_cookie_that_somebody_made_up_is_no_session(visitor: Visitor, cookie: str) -> None:
    for name in ("session", "visitor", "__Host-session"):
        raw = f"{name}={cookie}".encode().decode("latin-1")
        answer = visitor.client.get("/home", environ_overrides={"HTTP_COOKIE": raw})
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/login")


@pytest.mark.parametrize("header", ["a=\xe9", "session=\xff\xfe", "\x80", "=", ";;=;", 'a="\\351"', "a=b; a"])
def test_a_cookie_that_is_no_text_breaks_no_page(app: Flask, header: str) -> None:
    for path in ("/", "/", "/login"):  # built, cached, and never cached
        client = app.test_client(use_cookies=False)
        assert client.get(path, environ_overrides={"HTTP_COOKIE": header}).status_code == 200


def token_of(visitor: Visitor, path: str) -> str:
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', visitor.get(path).text)
    assert found
    return found[1]


FORMS = {
    "/register": ("username", "email", "password"),
    "/login": ("username", "password", "next"),
    "/posts": ("body",),
    "/settings/password": ("current_password", "new_password"),
}


@pytest.mark.parametrize(("path", "field"), [(path, field) for path, fields in FORMS.items() for field in fields])
def test_a_file_in_place_of_a_text_breaks_nothing(ada: Visitor, visitor: Visitor, path: str, field: str) -> None:
    sender, form_on = (visitor, path) if path in ("/register", "/login") else (ada, path.replace("/posts", "/home"))
    fields: dict[str, object] = dict.fromkeys(FORMS[path], "x")
    fields |= {field: (io.BytesIO(b"x"), "x.txt"), "csrf_token": token_of(sender, form_on)}
    assert sender.client.post(path, data=fields).status_code == 422


@pytest.mark.parametrize("path", FORMS)
def test_json_in_place_of_a_form_breaks_nothing(ada: Visitor, visitor: Visitor, path: str) -> None:
    sender, form_on = (visitor, path) if path in ("/register", "/login") else (ada, path.replace("/posts", "/home"))
    for value in (1, None, ["a"], {"a": "b"}):
        answer = sender.client.post(
            path, json=dict.fromkeys(FORMS[path], value), headers={"X-CSRFToken": token_of(sender, form_on)}
        )
        assert answer.status_code == 422
