"""Accounts: registering, logging in and out, changing and resetting the password."""

from flask import Blueprint, abort, current_app, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.models import EmailTakenError, NameTakenError, User
from app.rate_limit import current_limiter, registration_rules, reset_rules, sign_in_rules
from app.sessions import MOST_SESSIONS, current_interface, current_session
from app.web.forms.accounts import EMAIL_TAKEN, NAME_TAKEN, LoginForm, PasswordForm, RegisterForm, ResetForm
from app.web.limits import count_attempt, remember_device, rules_for_this_browser
from app.web.viewer import end_other_sessions, local_path, login_required, sign_in, sign_out, signed_in, viewer

bp = Blueprint("accounts", __name__)

WRONG_PASSWORD = "That name and password don't match."  # noqa: S105  # a message
DEAD_LINK = (
    "A password reset link works only once, and expires after an hour. Ask the people who run this site for a new one."
)


@bp.route("/register", methods=["GET", "POST"])
def register() -> ResponseReturnValue:
    """Make an account, and sign in with it."""
    if signed_in():
        return redirect(url_for("posts.home"))
    form = RegisterForm()
    if request.method != "POST":
        form.next.data = local_path(request.args.get("next"))
        return render_template("accounts/register.html", form=form)
    count_attempt(registration_rules(request.remote_addr or ""))
    if form.validate():
        try:
            user = User.register(form.username.data, form.email.data, form.password.data)
        except NameTakenError:  # by somebody who was a moment faster
            form.username.errors.append(NAME_TAKEN.format(form.username.data))
        except EmailTakenError:
            form.email.errors.append(EMAIL_TAKEN)
        else:
            response = make_response(redirect(local_path(form.next.data) or url_for("posts.home")))
            remember_device(response, *user.login_names)
            if sign_in(user):
                flash(f"Welcome, @{user.name}. Say hello!")
            return response
    return render_template("accounts/register.html", form=form), 422


@bp.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Sign in; the rate limit is checked before any password is hashed. Who is suspended may only read why."""
    if signed_in():
        return redirect(url_for("posts.home"))
    form = LoginForm()
    if request.method != "POST":
        form.next.data = local_path(request.args.get("next"))
        return render_template("accounts/login.html", form=form)
    attempt = count_attempt(rules_for_this_browser(form.username.data or ""))
    if not form.validate():
        return render_template("accounts/login.html", form=form), 422
    user = User.authenticate(form.username.data, form.password.data)
    if user is None:
        return _refuse_login(form, WRONG_PASSWORD)
    count_attempt(sign_in_rules(user.id))
    current_limiter().give_back(attempt)
    response = make_response(redirect(local_path(form.next.data) or url_for("posts.home")))
    devices = remember_device(response, *user.login_names)
    if not sign_in(user):  # the password changed, or the account was suspended or reinstated, during this request
        for account, device in devices.items():
            current_limiter().forget_device(account, device)
        return _refuse_login(form, WRONG_PASSWORD)
    return response


def _refuse_login(form: LoginForm, why: str) -> ResponseReturnValue:
    form.password.errors.append(why)
    return render_template("accounts/login.html", form=form), 422


@bp.post("/logout")
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
    attempt = count_attempt(current_limiter().password_rules(viewer().id))
    if not form.validate():
        return render_template("accounts/password.html", form=form), 422
    user = viewer()
    if not user.has_password(form.current_password.data):
        return _refuse_change(form)
    count_attempt(sign_in_rules(user.id))
    current_limiter().give_back(attempt)
    if not user.change_password(form.new_password.data, keep=current_session().sid):
        return _refuse_change(form)
    response = make_response(redirect(url_for("posts.home")))
    remember_device(response, *user.login_names)
    if sign_in(user):
        flash("Password changed. You've been logged out everywhere else.")
    return response


def _refuse_change(form: PasswordForm) -> ResponseReturnValue:
    form.current_password.errors.append("That's not your current password.")
    return render_template("accounts/password.html", form=form), 422


@bp.route("/reset/<token>", methods=["GET", "POST"])
def reset_password(token: str) -> ResponseReturnValue:
    """Set a new password with a link that `flask user reset-link` made."""
    form = ResetForm()
    if request.method == "POST":
        count_attempt(reset_rules(request.remote_addr or ""))
    user = User.with_reset_token(token, current_app.config["SECRET_KEY"]) or abort(410, DEAD_LINK)
    if not form.validate_on_submit():
        page = render_template("accounts/reset.html", form=form, user=user, token=token)
        return page, 422 if form.is_submitted() else 200, {"Cache-Control": "no-store"}
    if not user.change_password(form.new_password.data):
        abort(410, DEAD_LINK)
    if signed_in():
        sign_out()
    flash("Password changed. Log in with the new one.")
    return redirect(url_for("accounts.login"))
