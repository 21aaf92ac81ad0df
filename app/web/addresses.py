"""E-mail addresses: a forgotten password, confirming an address, changing it, and what a site asks for without one."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from flask import Blueprint, abort, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.models import EmailTakenError, SecondFactor
from app.models.addresses import ask_to_confirm, confirm, forget_password, keep, remove, with_confirm_token
from app.rate_limit import mail_rules, reset_rules
from app.web.forms.addresses import AddressForm, ForgotForm
from app.web.limits import count_attempt
from app.web.membership import open_to_strangers, site_config
from app.web.recent_login import has_proved
from app.web.viewer import login_required, viewer

bp = Blueprint("addresses", __name__)

P = ParamSpec("P")
DEAD_LINK = (
    "A link to confirm an e-mail address works once, for a day, and only until you ask for another one. "
    "You can ask for another one in your settings, under Account."
)
TAKEN = "Meanwhile this address was confirmed for another account. An address can belong to one account only."


@bp.route("/forgot", methods=["GET", "POST"])
@open_to_strangers
def forgot() -> ResponseReturnValue:
    """Have a link to choose a new password sent; the answer is the same for every address, and takes as long."""
    form = ForgotForm()
    if not site_config().sends_mail or not form.validate_on_submit():
        page = render_template("addresses/forgot.html", form=form, sends_mail=site_config().sends_mail)
        return page, 422 if form.errors else 200
    count_attempt(mail_rules(form.email.data, request.remote_addr or ""))
    forget_password(form.email.data)
    return redirect(url_for("addresses.forgot_sent"))


@bp.get("/forgot/sent")
@open_to_strangers
def forgot_sent() -> ResponseReturnValue:
    """Say where the link is, if there is one."""
    return render_template("addresses/forgot_sent.html")


@bp.route("/settings/account", methods=["GET", "POST"])
@login_required
def account() -> ResponseReturnValue:
    """Change or remove the viewer's address; the password proves that it is the owner who asks."""
    user = viewer()
    form = AddressForm(data={"email": user.new_email or user.email})
    if request.method != "POST":
        return _account(form)
    if not has_proved(form, form.password):
        return _account(form), 422
    address = form.email.data.lower()
    if address and address != user.email and not site_config().sends_mail:
        form.email.errors.append("This site sends no mail, so it can't confirm another address.")
        return _account(form), 422
    if not address and site_config().confirm_email:
        form.email.errors.append("This site asks everyone for an e-mail address.")
        return _account(form), 422
    if address == (user.email or ""):
        keep(user)
        flash("Saved.")
    elif address:
        _send_confirmation(address)
    else:
        remove(user)
        flash("Your e-mail address was removed.")
    return redirect(url_for("addresses.account"))


@bp.post("/settings/account/send-again")
@login_required
def send_again() -> ResponseReturnValue:
    """Send the link to confirm an address once more."""
    address = viewer().new_email
    if address and site_config().sends_mail:
        _send_confirmation(address)
    return redirect(url_for("addresses.account"))


@bp.route("/confirm/<token>", methods=["GET", "POST"])
@open_to_strangers
def confirm_address(token: str) -> ResponseReturnValue:
    """Confirm an address with a link. It takes a button, because programs that look for viruses open links, too."""
    if request.method == "POST":
        count_attempt(reset_rules(request.remote_addr or ""))
    user = with_confirm_token(token, current_app.config["SECRET_KEY"]) or abort(410, DEAD_LINK)
    if request.method != "POST":
        page = render_template("addresses/confirm.html", user=user, token=token)
        return page, 200, {"Cache-Control": "no-store"}
    try:
        confirm(user)
    except EmailTakenError:
        abort(410, TAKEN)
    return redirect(url_for("addresses.confirmed"))


@bp.get("/confirmed")
@open_to_strangers
def confirmed() -> ResponseReturnValue:
    """Say that an address is confirmed; who opened the link need not be logged in."""
    return render_template("addresses/confirmed.html")


def address_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Let nobody do this without a confirmed address, where the site asks for one; goes below @login_required.

    A post that was being written is shown, so that nobody has to write it twice.
    """

    @wraps(view)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        if site_config().confirm_email and viewer().email is None:
            page = render_template(
                "addresses/required.html", new_email=viewer().new_email, kept=request.form.get("body")
            )
            return page, 403, {"Cache-Control": "no-store"}
        return view(*args, **kwargs)

    return wrapped


def _send_confirmation(address: str) -> None:
    count_attempt(mail_rules(address, request.remote_addr or ""))
    ask_to_confirm(viewer(), address)
    flash(f"We've sent a link to {address}. Open it to confirm your address.")


def _account(form: AddressForm) -> str:
    config, factor = site_config(), SecondFactor.of(viewer().id)
    return render_template(
        "addresses/account.html",
        form=form,
        user=viewer(),
        factor=factor,
        codes_left=factor.codes_left() if factor else 0,
        sends_mail=config.sends_mail,
        is_required=config.confirm_email,
    )
