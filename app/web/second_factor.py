"""Two-factor authentication: setting it up and turning it off, and the second step of logging in."""

from flask import Blueprint, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from app.models import SecondFactor
from app.models.second_factor import AlreadyOnError, app_uri, in_fours, is_app_code, new_secret
from app.rate_limit import current_limiter
from app.sessions import current_session
from app.web.forms.second_factor import AppCodeForm, RecoveryCodeForm, SetUpForm
from app.web.limits import count_attempt, rules_for_code
from app.web.login_steps import complete_login, half_login
from app.web.membership import open_to_strangers
from app.web.recent_login import recent_login_required
from app.web.viewer import signed_in, viewer

bp = Blueprint("second_factor", __name__)

NO_STORE = {"Cache-Control": "no-store"}  # for pages with a secret
WRONG_CODE = "That code isn't right, or was used already. Enter the one that your app shows now."
WRONG_FIRST_CODE = "That code isn't right. Enter the one that the app shows now. Is your phone's clock right?"
WRONG_RECOVERY_CODE = "That code isn't right, or was used already."
LAST_CODE_USED = "You've used your last recovery code. Make new ones in your settings."
NEW_SECRET = "new_factor"  # noqa: S105  # the name of a key in the session


@bp.route("/login/code", methods=["GET", "POST"])
@open_to_strangers
def enter_code() -> ResponseReturnValue:
    """Finish logging in with a code; guesses are counted before they are checked."""
    if signed_in():
        return redirect(url_for("posts.home"))
    half = half_login()
    if half is None:
        return _start_again()
    form = RecoveryCodeForm() if "recovery" in request.args else AppCodeForm()
    if request.method != "POST":
        return _code_page(form)
    user = half.user
    attempt = count_attempt(rules_for_code(user.id, user.password_version, user.name))
    if not form.validate():
        return _code_page(form, 422)
    if not half.factor.accepts(form.code.data):
        form.code.errors.append(WRONG_CODE if is_app_code(form.code.data) else WRONG_RECOVERY_CODE)
        return _code_page(form, 422)
    current_limiter().give_back(attempt)
    response = complete_login(user, half.next)
    if response and not is_app_code(form.code.data):
        left = half.factor.codes_left()
        flash(f"You've used a recovery code. You have {left} left." if left else LAST_CODE_USED)
    return response or _start_again()


def _start_again() -> ResponseReturnValue:
    flash("Please enter your password again.")
    return redirect(url_for("accounts.login"))


def _code_page(form: AppCodeForm | RecoveryCodeForm, status: int = 200) -> ResponseReturnValue:
    return render_template("second_factor/enter_code.html", form=form), status, NO_STORE


@bp.route("/settings/account/two-factor", methods=["GET", "POST"])
@recent_login_required
def turn_on() -> ResponseReturnValue:
    """Show a secret for an authenticator app, and ask for codes at logins once a code proves that the app has it.

    The secret waits in the session, so that it stays the same when a phone loads the page again.
    """
    user, session = viewer(), current_session()
    if SecondFactor.of(user.id):
        return redirect(url_for("addresses.account"))
    secret: str = session.setdefault(NEW_SECRET, new_secret())
    form = SetUpForm()
    if form.validate_on_submit():
        try:
            codes = SecondFactor.turn_on(user.id, secret, form.code.data)
        except AlreadyOnError:  # by another request, a moment ago
            return redirect(url_for("addresses.account"))
        if codes:
            session.pop(NEW_SECRET)
            return _codes_page(codes, is_new=True)
        form.code.errors.append(WRONG_FIRST_CODE)
    uri = app_uri(secret, user.name, current_app.config["SITE_NAME"])
    page = render_template("second_factor/turn_on.html", form=form, uri=uri, qr=_qr(uri), secret=in_fours(secret))
    return page, form.status, NO_STORE


@bp.route("/settings/account/two-factor/recovery-codes", methods=["GET", "POST"])
@recent_login_required
def recovery_codes() -> ResponseReturnValue:
    """Make new recovery codes, and show them once."""
    factor = SecondFactor.of(viewer().id)
    if factor and request.method == "POST" and (codes := factor.renew_codes()):
        return _codes_page(codes)
    if factor is None:
        return redirect(url_for("addresses.account"))
    return render_template("second_factor/renew_codes.html", left=factor.codes_left())


@bp.route("/settings/account/two-factor/off", methods=["GET", "POST"])
@recent_login_required
def turn_off() -> ResponseReturnValue:
    """Ask for nothing but the password from now on."""
    if request.method == "POST" and SecondFactor.turn_off(viewer().id):
        flash("Two-factor authentication is off.")
    elif SecondFactor.of(viewer().id):
        return render_template("second_factor/turn_off.html")
    return redirect(url_for("addresses.account"))


def _codes_page(codes: list[str], *, is_new: bool = False) -> ResponseReturnValue:
    return render_template("second_factor/recovery_codes.html", codes=codes, is_new=is_new), NO_STORE


def _qr(uri: str) -> Markup:
    """Return a QR code as inline SVG, without the inline styles that the Content-Security-Policy forbids.

    It is dark on light in both themes, with the margin that scanners need: some can't read the reverse.
    """
    import segno  # half a megabyte that few processes ever need

    svg = segno.make(uri, error="m", micro=False).svg_inline(light="#fff", svgclass="qr", lineclass=None, omitsize=True)
    return Markup(svg)  # noqa: S704  # only shapes: the text in it is drawn
