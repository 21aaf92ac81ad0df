"""Pictures that people upload of themselves: where they are shown, and how they are served."""

import io
import json
import re
from collections.abc import Callable

import pytest
from click.testing import Result
from flask import Flask
from PIL import Image
from redis import Redis

from app.models import Picture, User
from app.models.pictures import LARGEST
from app.rate_limit import BY_ACCOUNT
from app.web.post_html import PostHTML
from tests.conftest import Visitor
from tests.serving import FrontServer

IMG = re.compile(r'<img src="(/pictures/[0-9a-f]{32}\.webp)" alt="" width="256" height="256" loading="lazy"')


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def photo(colour: str = "red", kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(file, kind)
    return file.getvalue()


def upload(visitor: Visitor, content: bytes, name: str = "me.jpg") -> "tuple[int, str]":
    """Send the form with a file; return the answer's status and text."""
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', visitor.get("/settings/picture").text)
    assert token
    form = {"csrf_token": token[1], "picture": (io.BytesIO(content), name)}
    answer = visitor.client.post("/settings/picture", data=form, buffered=True)
    return answer.status_code, answer.text


def faces(page: str) -> list[str]:
    """Return the uploaded pictures on a page, but for the viewer's own in the bar."""
    return IMG.findall(re.sub(r"<summary>.*?</summary>", "", page, flags=re.DOTALL))


def in_the_bar(page: str) -> list[str]:
    summary = re.search(r"<summary>.*?</summary>", page, re.DOTALL)
    assert summary
    return IMG.findall(summary[0])


def test_a_picture_is_shown_wherever_the_person_is(app: Flask, ada: Visitor, bob: Visitor, visitor: Visitor) -> None:
    assert upload(ada, photo())[0] == 302
    ada.publish("tea, @bob?")
    ada.follow("bob")
    bob.publish("no picture of me")
    (picture,) = faces(visitor.get("/@ada/followers").text) or faces(visitor.get("/@bob/followers").text)
    for path in ("/", "/@ada", "/@ada/1", "/@bob/followers", "/people", "/search?q=ada"):
        assert set(faces(visitor.get(path).text)) == {picture}, path
    assert faces(bob.get("/notifications").text) == [picture]  # of the post that mentions bob
    assert faces(visitor.get("/@bob").text) == []
    answer = visitor.get(picture)
    assert Image.open(io.BytesIO(answer.data)).size == (256, 256)


def test_a_picture_is_served_for_ever_and_under_its_own_name(ada: Visitor, visitor: Visitor) -> None:
    upload(ada, photo())
    (picture,) = faces(visitor.get("/people").text)
    answer = visitor.get(picture)
    assert answer.content_type == "image/webp"
    assert answer.headers["Cache-Control"] == "public, immutable, max-age=31536000"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "img-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["ETag"].strip('"') in picture
    again = visitor.get(picture, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    for name in ("unknown", "0" * 32, "%00"):
        assert visitor.get(f"/pictures/{name}.webp").status_code == 404


def test_a_picture_renews_nobodys_cookie(redis: Redis, ada: Visitor) -> None:
    upload(ada, photo())
    (picture,) = faces(ada.get("/people").text)
    key = f"session:{ada.session_id()}"
    redis.set(key, json.dumps(json.loads(redis.get(key)) | {"seen": 1}))  # type: ignore[arg-type]
    answer = ada.get(picture)
    assert "Set-Cookie" not in answer.headers
    assert "Vary" not in answer.headers
    assert "Set-Cookie" in ada.get("/settings/picture").headers


def test_a_picture_that_was_replaced_or_removed_is_gone(ada: Visitor, visitor: Visitor) -> None:
    upload(ada, photo("red"))
    (red,) = faces(visitor.get("/people").text)
    upload(ada, photo("blue"))
    (blue,) = faces(visitor.get("/people").text)
    assert [visitor.get(path).status_code for path in (red, blue)] == [404, 200]
    assert ada.post("/settings/picture/remove", form_on="/settings/picture").status_code == 302
    assert faces(visitor.get("/people").text) == []
    assert visitor.get(blue, headers={"If-None-Match": "*"}).status_code == 404


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.server
def test_ones_own_pages_the_directory_and_the_bar_show_a_change_at_once(
    app: Flask, ada: Visitor, front: FrontServer, early: bool
) -> None:
    ada.publish("hello")
    cookie = f"Cookie: session={ada.session_id()}"
    headers = [cookie] if early else [cookie, "Cache-Control: no-cache"]
    for path in ("/", "/@ada", "/people"):
        front.ask(path, cookie)
        assert in_the_bar(front.ask(path, cookie).text) == []
    upload(ada, photo())
    for path in ("/@ada", "/people"):
        page = front.ask(path, *headers).text
        assert set(faces(page)) == set(in_the_bar(page)) != set(), path
    assert in_the_bar(front.ask("/", *headers).text) != []
    ada.post("/settings/picture/remove", form_on="/settings/picture")
    for path in ("/", "/@ada", "/people"):
        assert in_the_bar(front.ask(path, *headers).text) == [], path


def test_posts_show_a_change_when_their_html_has_expired(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    ada.publish("hello")
    assert faces(visitor.get("/@ada").text) == []
    upload(ada, photo())
    assert len(faces(visitor.get("/@ada").text)) == 1  # the profile's own; the post is as it was
    app.extensions["post_html"] = PostHTML(app)  # as after LIFETIME
    assert len(faces(visitor.get("/@ada?before=9").text)) == 2


def test_the_number_of_notifications_stands_beside_the_picture(ada: Visitor, bob: Visitor) -> None:
    upload(bob, photo())
    ada.publish("hello @bob")
    page = bob.get("/").text
    assert len(in_the_bar(page)) == 1
    assert '<span class="count">1<' in page


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello", "That isn&#39;t a picture"),
        (b"", "That isn&#39;t a picture"),
        (photo()[:-300], "can&#39;t be read"),
        (bytes(LARGEST + 1), "up to 8 MB"),
    ],
)
def test_what_cannot_be_used_is_said_beside_the_field(
    ada: Visitor, visitor: Visitor, content: bytes, says: str
) -> None:
    status, text = upload(ada, content)
    assert status == 422
    error = re.search(r'<p class="field-error" id="picture-error">([^<]*)</p>', text)
    assert error
    assert says in error[1]
    assert 'aria-describedby="picture-hint picture-error"' in text
    assert faces(visitor.get("/people").text) == []


def test_no_file_at_all_is_said_too(ada: Visitor) -> None:
    answer = ada.post("/settings/picture", picture="me.jpg")
    assert answer.status_code == 422
    assert "Choose a file first." in answer.text


def test_a_file_that_is_too_large_is_refused_unread_beside_the_field(ada: Visitor, visitor: Visitor) -> None:
    for who in (ada, visitor):
        answer = who.client.post("/settings/picture", data={"picture": (io.BytesIO(bytes(2 * LARGEST)), "me.jpg")})
        assert answer.status_code == 413
        assert "A picture can have up to 8 MB." in answer.text
        assert 'id="picture-error"' in answer.text


@pytest.mark.server
def test_a_real_upload_goes_through_the_front(app: Flask, ada: Visitor, front: FrontServer) -> None:
    cookie = f"Cookie: session={ada.session_id()}"
    page = front.ask("/settings/picture", cookie).text
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert token
    noise = io.BytesIO()
    Image.effect_noise((1000, 1000), 90).save(noise, "PNG")
    parts = [("csrf_token", "", token[1].encode()), ("picture", '; filename="me.png"', noise.getvalue())]
    body = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
        for name, more, content in parts
    )
    body += b"--x--\r\n"
    form = "Content-Type: multipart/form-data; boundary=x"
    assert len(body) > 500_000
    assert front.ask("/settings/picture", cookie, form, method="POST", body=body).status == 302
    (picture,) = set(faces(front.ask("/@ada").text))
    served = front.ask(picture)
    assert (served.status, served.header("content-type")) == (200, "image/webp")
    assert served.header("cache-control").startswith("public, ")
    reply = front.ask("/settings/picture", cookie, form, method="POST", body=bytes(LARGEST * 2))
    assert reply.status == 413
    assert "A picture can have up to 8 MB." in reply.text


def test_a_picture_is_for_members_only(visitor: Visitor) -> None:
    assert visitor.get("/settings/picture").status_code == 302
    data = {"picture": (io.BytesIO(photo()), "me.jpg")}
    assert visitor.client.post("/settings/picture", data=data).status_code == 403
    assert visitor.client.post("/settings/picture/remove").status_code == 403


def test_a_file_does_not_pass_for_another_field(ada: Visitor) -> None:
    data = {"csrf_token": (io.BytesIO(b"x"), "token"), "picture": (io.BytesIO(photo()), "me.jpg")}
    assert ada.client.post("/settings/picture", data=data).status_code == 400


def test_pictures_are_limited_per_account(ada: Visitor) -> None:
    for _ in range(BY_ACCOUNT["picture"][True]):
        assert upload(ada, b"")[0] == 422
    assert upload(ada, b"")[0] == 429


def test_whoever_runs_the_site_can_remove_a_picture(app: Flask, ada: Visitor, visitor: Visitor) -> None:
    upload(ada, photo())
    (picture,) = faces(visitor.get("/people").text)
    run: Callable[..., Result] = app.test_cli_runner().invoke
    assert run(args=["user", "remove-picture", "ada"]).output == "@ada no longer has a picture.\n"
    assert visitor.get(picture).status_code == 404
    assert run(args=["user", "remove-picture", "ada"]).output == "@ada has not uploaded a picture.\n"
    with app.app_context():
        user = User.named("ada")
        assert user
        assert user.picture == ""
        assert Picture.with_digest(picture[10:42]) is None
