"""Accounts: registering, logging in and out, changing and resetting the password."""

from functools import partial

from flask import Blueprint, abort, current_app, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.models import Applicant, Invitation, NameTakenError, User
from app.rate_limit import account_rules, current_limiter, mail_rules, registration_rules, reset_rules
from app.sessions import MOST_SESSIONS, current_interface, current_session
from app.web.forms.accounts import NAME_TAKEN, LoginForm, PasswordForm, RegisterForm, ResetForm
from app.web.limits import count_attempt, remember_device, rules_for_this_browser
from app.web.login_steps import after_password
from app.web.membership import open_to_strangers, site_config
from app.web.recent_login import has_proved
from app.web.viewer import end_other_sessions, local_path, login_required, sign_in, sign_out, signed_in, viewer

bp = Blueprint("accounts", __name__)

WRONG_PASSWORD = "That name and password don't match."  # noqa: S105  # a message
NOT_CURRENT = "That's not your current password."
ASKED = "Thanks, @{}! As soon as a moderator has let you in, you can log in."
WAITING = "Your account is waiting for a moderator to let you in. Try again later."
DEAD_LINK = (
    "A password reset link works only once, and expires after an hour. Ask for a new one where you log in, or ask the "
    "people who run this site."
)


@bp.route("/register", methods=["GET", "POST"])
@open_to_strangers
def register() -> ResponseReturnValue:
    """Make an account, and sign in with it; or ask for one; or say why that isn't possible, as REGISTRATION has it."""
    if signed_in():
        return redirect(url_for("posts.home"))
    if not site_config().may_register:
        return render_template("joining/not_open.html"), 403
    return register_with()


def register_with(invitation: Invitation | None = None) -> ResponseReturnValue:
    """Show the form for an account, or take it. Raises InvitationEndedError."""
    config = site_config()
    asks = config.registration == "asked"
    form = RegisterForm.where(sends_mail=config.sends_mail, insists=config.confirm_email, asks=asks)
    inviter = invitation.inviter.name if invitation else None
    page = partial(render_template, "accounts/register.html", form=form, inviter=inviter)
    if request.method != "POST":
        form.next.data = local_path(request.args.get("next"))
        return page()
    count_attempt(registration_rules(request.remote_addr or "", asks=asks))
    if form.validate():
        address: str = form.email.data if form.email else ""
        if address:
            count_attempt(mail_rules(address, request.remote_addr or ""))
        try:
            if asks:
                Applicant.ask(form.username.data, address, form.password.data, form.why.data)
                flash(ASKED.format(form.username.data))
                return redirect(url_for("accounts.login"))
            name, password = form.username.data, form.password.data
            user = User.register(name, None, password, new_email=address, invitation=invitation)
        except NameTakenError:  # by somebody who was a moment faster
            form.username.errors.append(NAME_TAKEN.format(form.username.data))
        else:
            response = make_response(redirect(local_path(form.next.data) or url_for("posts.home")))
            remember_device(response, *user.login_names)
            if sign_in(user):
                flash(f"Welcome, @{user.name}. Say hello!")
                if address:
                    flash(f"We've sent a link to {address}. Open it to confirm your address.")
            return response
    return page(), 422


@bp.route("/login", methods=["GET", "POST"])
@open_to_strangers
def login() -> ResponseReturnValue:
    """Check name and password; the rate limit is checked before any password is hashed.

    A suspended person can log in too, but only for what app/web/suspension.py allows.
    """
    if signed_in():
        return redirect(url_for("posts.home"))
    form = LoginForm()
    if request.method != "POST":
        form.next.data = local_path(request.args.get("next"))
        return render_template("accounts/login.html", form=form)
    attempt = count_attempt(rules_for_this_browser(form.username.data or ""))
    if not form.validate():
        return render_template("accounts/login.html", form=form), 422
    applicant = Applicant.named(form.username.data)
    if applicant and not User.named(applicant.name):  # one hash is checked, as in any other case
        waits = applicant.has_password(form.password.data)
        return _refuse_login(form, WAITING if waits else WRONG_PASSWORD)
    user = User.authenticate(form.username.data, form.password.data)
    if user is None:
        return _refuse_login(form, WRONG_PASSWORD)
    count_attempt(account_rules("sign-in", user.id))
    current_limiter().give_back(attempt)
    return after_password(user, form.next.data) or _refuse_login(form, WRONG_PASSWORD)


def _refuse_login(form: LoginForm, why: str) -> ResponseReturnValue:
    form.password.errors.append(why)
    return render_template("accounts/login.html", form=form), 422


@bp.post("/logout")
@open_to_strangers
def logout() -> ResponseReturnValue:
    """End this session."""
    if signed_in():
        sign_out()
        flash("You're logged out.")
    return redirect(url_for("posts.latest"))


@bp.get("/settings/sessions")
@login_required
def sessions() -> ResponseReturnValue:
    """Show every place where the viewer is signed in: this one first, then the last used."""
    this = current_session().sid
    places = sorted(current_interface().active(viewer().id), key=lambda place: place.sid != this)
    return render_template("accounts/sessions.html", places=places, this=this, most=MOST_SESSIONS)


@bp.post("/settings/sessions/<handle>/end")
@login_required
def end_session(handle: str) -> ResponseReturnValue:
    """End one session of the viewer's, at once and on every process."""
    ended = current_interface().end_one(viewer().id, handle)
    flash(f"Logged out of {ended.device or 'an unknown browser'}." if ended else "That device was already logged out.")
    return redirect(url_for("accounts.sessions"))


@bp.post("/settings/sessions/end-others")
@login_required
def end_all_other_sessions() -> ResponseReturnValue:
    """End all of the viewer's sessions but this one."""
    count = end_other_sessions()
    flash(f"Logged out of {count} other device{'' if count == 1 else 's'}.")
    return redirect(url_for("accounts.sessions"))


@bp.route("/settings/password", methods=["GET", "POST"])
@login_required
def change_password() -> ResponseReturnValue:
    """Change the password; that ends all of the user's sessions but this one, which gets a new id."""
    form = PasswordForm()
    if request.method != "POST":
        return render_template("accounts/password.html", form=form)
    if not has_proved(form, form.current_password, NOT_CURRENT):
        return render_template("accounts/password.html", form=form), 422
    user = viewer()
    if not user.change_password(form.new_password.data, keep=current_session().sid):  # by another request, just now
        form.current_password.errors.append(NOT_CURRENT)
        return render_template("accounts/password.html", form=form), 422
    response = make_response(redirect(url_for("posts.home")))
    remember_device(response, *user.login_names)
    if sign_in(user):
        flash("Password changed. You've been logged out everywhere else.")
    return response


@bp.route("/reset/<token>", methods=["GET", "POST"])
@open_to_strangers
def reset_password(token: str) -> ResponseReturnValue:
    """Set a new password with a link, from a mail or from `flask user reset-link`."""
    form = ResetForm()
    if request.method == "POST":
        count_attempt(reset_rules(request.remote_addr or ""))
    user = User.with_reset_token(token, current_app.config["SECRET_KEY"]) or abort(410, DEAD_LINK)
    if not form.validate_on_submit():
        page = render_template("accounts/reset.html", form=form, user=user, token=token)
        return page, form.status, {"Cache-Control": "no-store"}
    if not user.change_password(form.new_password.data):
        abort(410, DEAD_LINK)
    if signed_in():
        sign_out()
    flash("Password changed. Log in with the new one.")
    return redirect(url_for("accounts.login"))
