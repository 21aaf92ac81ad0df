"""A second factor: each code works once and at its time, whatever comes at the same moment, on both databases."""

from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
from flask import Flask
from sqlalchemy import text

from app.extensions import db
from app.models import SecondFactor, User
from app.models.second_factor import RECOVERY_CODES, STEP, AlreadyOnError, app_uri, new_secret
from tests.conftest import in_threads

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
MOMENT = 1_800_000_000 // STEP * STEP
Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the clock; it stands still until it is set again."""

    def set_to(moment: float) -> None:
        monkeypatch.setattr("app.models.second_factor.time.time", lambda: moment)

    set_to(MOMENT)
    return set_to


@pytest.fixture
def codes(make_user: Callable[[str], User], clock: Clock) -> list[str]:
    """Turn on the second factor of the first account, and give its recovery codes."""
    codes = SecondFactor.turn_on(make_user("ada").id, SECRET, code_at(MOMENT))
    assert codes
    return codes


def code_at(moment: float) -> str:
    return pyotp.TOTP(SECRET).at(int(moment))


def factor() -> SecondFactor:
    found = SecondFactor.of(1)
    assert found
    return found


@pytest.mark.parametrize(
    ("seconds", "accepted"),
    [(-STEP - 1, False), (-STEP, True), (-1, True), (0, True), (STEP, True), (2 * STEP - 1, True), (2 * STEP, False)],
)
def test_a_code_is_accepted_a_step_before_its_time_and_a_step_after(
    codes: list[str], clock: Clock, seconds: int, accepted: bool
) -> None:
    later = MOMENT + 10 * STEP
    clock(later + seconds)
    assert factor().accepts(code_at(later)) == accepted


def test_a_used_code_is_refused_and_so_is_an_older_one(codes: list[str], clock: Clock) -> None:
    clock(MOMENT + STEP)
    assert not factor().accepts(code_at(MOMENT))  # it has turned the second factor on
    assert factor().accepts(code_at(MOMENT + 2 * STEP))
    for step in range(-1, 3):
        assert not factor().accepts(code_at(MOMENT + step * STEP))
    clock(MOMENT + 2 * STEP)
    assert factor().accepts(code_at(MOMENT + 3 * STEP))


def test_a_recovery_code_works_once_however_it_is_typed(codes: list[str]) -> None:
    assert len(set(codes)) == RECOVERY_CODES
    spellings = [codes[0], codes[1].upper(), codes[2].replace("-", ""), f" {codes[3].replace('-', ' ')} "]
    for spelling in spellings:
        assert factor().accepts(spelling)
        assert not factor().accepts(spelling)
    assert factor().codes_left() == RECOVERY_CODES - len(spellings)


@pytest.mark.parametrize("code", ["", "-", "000", "aaaa-aaaa-aaaa-aaaa", "é" * 6, "１２３", "\0", "x" * 100])
def test_another_code_is_refused(codes: list[str], code: str) -> None:
    assert not factor().accepts(code)


def test_digits_of_a_japanese_keyboard_are_digits(codes: list[str], clock: Clock) -> None:
    clock(MOMENT + STEP)
    code = code_at(MOMENT + STEP)
    wide = "".join(chr(ord(digit) - ord("0") + ord("０")) for digit in code)
    assert factor().accepts(f"{wide[:3]} {wide[3:]}")


def test_somebody_elses_codes_are_refused(codes: list[str], make_user: Callable[[str], User]) -> None:
    bob = make_user("bob")
    assert SecondFactor.turn_on(bob.id, new_secret(), code_at(MOMENT)) is None
    assert SecondFactor.of(bob.id) is None
    secret = new_secret()
    theirs = SecondFactor.turn_on(bob.id, secret, pyotp.TOTP(secret).at(MOMENT))
    assert theirs
    assert not factor().accepts(theirs[0])
    assert not factor().accepts(pyotp.TOTP(secret).at(MOMENT + STEP))


def test_new_recovery_codes_replace_the_old_ones(codes: list[str]) -> None:
    factor().accepts(codes[0])
    new = factor().renew_codes()
    assert factor().codes_left() == len(new) == RECOVERY_CODES
    assert not factor().accepts(codes[1])
    assert factor().accepts(new[0])


def test_it_is_turned_on_once_and_off_with_its_codes(codes: list[str]) -> None:
    with pytest.raises(AlreadyOnError):
        SecondFactor.turn_on(1, SECRET, code_at(MOMENT))
    assert factor().codes_left() == RECOVERY_CODES
    late = factor()
    assert SecondFactor.turn_off(1)
    assert not SecondFactor.turn_off(1)
    assert SecondFactor.of(1) is None
    assert not late.accepts(codes[0])
    assert late.renew_codes() == []
    assert rows() == []


def test_it_goes_with_its_account(codes: list[str]) -> None:
    user = User.named("ada")
    assert user
    user.delete_account()
    assert rows() == []
    assert SecondFactor.of(1) is None


def test_only_the_hashes_of_recovery_codes_are_kept(codes: list[str]) -> None:
    kept = " ".join(rows())
    assert len(rows()) == RECOVERY_CODES
    assert not any(code in kept or code.replace("-", "") in kept for code in codes)


def test_an_app_learns_the_secret_and_whose_it_is() -> None:
    uri = urlsplit(app_uri(SECRET, "ada", "Town: tea & talk"))
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert uri.path.endswith(":ada")
    assert parse_qs(uri.query) == {"secret": [SECRET], "issuer": ["Town: tea & talk"]}
    assert new_secret() != new_secret()


@pytest.mark.server
@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_of_requests_with_one_code_at_the_same_moment_one_is_right(
    app: Flask, codes: list[str], clock: Clock, kind: str
) -> None:
    for number in range(5):
        now = MOMENT + (number + 1) * STEP
        clock(now)
        code = code_at(now) if kind == "app" else codes[number]
        accepted: list[bool] = []

        def enter(_number: int, code: str = code, accepted: list[bool] = accepted) -> None:
            with app.app_context():
                accepted.append(factor().accepts(code))

        in_threads(8, enter)
        assert sorted(accepted) == [False] * 7 + [True]


@pytest.mark.server
def test_new_codes_that_are_made_twice_at_once_are_still_ten(app: Flask, codes: list[str]) -> None:
    made: list[list[str]] = []

    def renew(_number: int) -> None:
        with app.app_context():
            made.append(factor().renew_codes())

    for _ in range(5):
        in_threads(4, renew)
        assert factor().codes_left() == RECOVERY_CODES
    assert sum(factor().accepts(new[0]) for new in made) == 1


def rows() -> list[str]:
    """Return what is kept of recovery codes."""
    return [str(row) for row in db.session.execute(text("SELECT * FROM recovery_codes"))]
