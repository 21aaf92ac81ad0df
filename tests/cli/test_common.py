"""How commands end when something can't be done: with one line that says why."""

import pytest
from flask import Flask

from app.extensions import db


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "command",
    ["seed", "user list", "user promote ada", "mail list", "sessions list --user ada", "post index"],
)
def test_without_tables_a_command_says_what_to_do(app: Flask, command: str) -> None:
    with app.app_context():
        db.drop_all()
    try:
        result = app.test_cli_runner().invoke(args=command.split())
    finally:
        with app.app_context():
            db.create_all()
    assert result.exit_code == 1
    assert result.output.startswith("Error: The database lacks a table or column: run `flask db upgrade` (")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (["demote"], "Error: @ada is not a moderator.\n"),
        (["promote", "promote"], "Error: @ada is already a moderator.\n"),
        (["reinstate"], "Error: @ada isn't suspended.\n"),
    ],
)
@pytest.mark.usefixtures("ada")
def test_what_is_so_already_is_not_done_again(app: Flask, commands: list[str], said: str) -> None:
    for command in commands:
        result = app.test_cli_runner().invoke(args=["user", command, "ada"])
    assert (result.exit_code, result.output) == (1, said)
