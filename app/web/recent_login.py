"""A recent login: whoever wants to change what protects an account has to have entered its password just before.

An unlocked computer, or a stolen session, is not enough to take an account over.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import PasswordField

from app.rate_limit import account_rules, current_limiter
from app.sessions import current_session
from app.web.forms import Form
from app.web.forms.recent_login import ConfirmForm
from app.web.limits import count_attempt
from app.web.viewer import local_path, login_required, viewer

P = ParamSpec("P")

RECENT = 15 * 60  # s

bp = Blueprint("recent_login", __name__)


def recent_login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Ask a signed-in visitor for their password, unless they have entered it in the last RECENT seconds.

    Somebody who isn't signed in is treated as by login_required(). A form that was sent is sent again once the password
    is right, without its passwords and files.
    """

    @wraps(view)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        session = current_session()
        if time.time() - session.get("proved", session.get("since", 0)) <= RECENT:
            return view(*args, **kwargs)
        here = request.full_path.rstrip("?")
        if request.method in ("GET", "HEAD"):
            return redirect(url_for("recent_login.confirm", next=here))
        return _page(ConfirmForm(formdata=None, next=here, resend="yes"), 403)

    return login_required(wrapped)


def has_proved(form: Form, password: PasswordField, wrong: str = "That's not your password.") -> bool:
    """Return whether a form is valid, and the password in one of its fields is the viewer's; else the field says so.

    Guesses are counted before they are checked. Raises TooManyAttemptsError, StoreUnavailableError.
    """
    user = viewer()
    attempt = count_attempt(current_limiter().password_rules(user.id))
    if not form.validate():
        return False
    if not user.has_password(password.data):
        password.errors.append(wrong)
        return False
    count_attempt(account_rules("sign-in", user.id))
    current_limiter().give_back(attempt)
    return True


@bp.route("/confirm-password", methods=["GET", "POST"])
@login_required
def confirm() -> ResponseReturnValue:
    """Ask for the password, and lead back to what it was needed for."""
    form = ConfirmForm()
    if request.method != "POST":
        form.next.data = local_path(request.args.get("next"))
        return _page(form)
    if not has_proved(form, form.confirmed_password):
        return _page(form, 422)
    current_session()["proved"] = int(time.time())
    # 307: the browser sends the form again as it is, to the page that had asked for the password.
    return redirect(local_path(form.next.data) or url_for("addresses.account"), 307 if form.resend.data else 302)


def _page(form: ConfirmForm, status: int = 200) -> ResponseReturnValue:
    """Return the page that asks for the password; it keeps what another form has sent."""
    own, sent = {field.name for field in form}, request.form.items(multi=True)
    kept = [(name, value) for name, value in sent if name not in own and "password" not in name]
    return render_template("recent_login/confirm.html", form=form, kept=kept), status, {"Cache-Control": "no-store"}
