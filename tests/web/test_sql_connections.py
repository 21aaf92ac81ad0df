"""A thread has its SQL connection no longer than it needs it: others wait for one."""

from typing import Any

import pytest
from flask import Flask, before_render_template
from flask_sqlalchemy.session import Session

from app.extensions import db, release_connection
from app.models import User, accounts
from tests.conftest import Visitor


def in_use() -> int:
    pool: Any = db.engine.pool
    return int(pool.checkedout())


def test_no_connection_is_kept_while_a_password_is_hashed(
    ada: Visitor, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            held.append(in_use())
            return getattr(hasher, name)

    hasher = accounts.hasher
    monkeypatch.setattr(accounts, "hasher", Watched())
    assert visitor.log_in("ada").status_code == 302
    fields = {"current_password": "correct horse battery", "new_password": "another horse", "confirm": "another horse"}
    ada.post("/settings/password", **fields)
    assert len(held) >= 3
    assert set(held) == {0}


def test_no_connection_is_kept_while_a_page_renders(app: Flask, ada: Visitor) -> None:
    ada.publish("hello #tea")
    held: list[int] = []

    def look(*_about: object, **_more: object) -> None:
        held.append(in_use())

    with before_render_template.connected_to(look, app):
        for path in ("/?before=9", "/@ada?before=9", "/search?q=hello", "/settings/account"):
            assert ada.get(path).status_code == 200
    assert held == [0] * len(held)
    assert len(held) >= 4


def test_a_connection_with_something_to_write_is_kept_and_nothing_is_committed(app: Flask, ada: Visitor) -> None:
    with app.app_context():
        user = User.named("ada")
        assert user
        session: Session = db.session()
        user.about = "not yet"
        release_connection()
        assert user in session.dirty
        assert in_use() == 1
        db.session.rollback()
        assert user.about != "not yet"
