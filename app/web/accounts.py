"""Accounts: registering, logging in and out, changing the password."""

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from app.models import EmailTakenError, NameTakenError, User
from app.rate_limit import current_limiter, registration_rules, sign_in_rules
from app.sessions import current_interface, current_session
from app.web.forms import EMAIL_TAKEN, NAME_TAKEN, LoginForm, PasswordForm, RegisterForm
from app.web.limits import count_attempt, remember_device, rules_for_this_browser
from app.web.viewer import end_other_sessions, local_path, login_required, sign_in, sign_out, signed_in, viewer

bp = Blueprint("accounts", __name__)


@bp.route("/register", methods=["GET", "POST"])
def register() -> ResponseReturnValue:
    """Make an account, and sign in with it."""
    if signed_in():
        return redirect(url_for("posts.home"))
    form = RegisterForm()
    if request.method != "POST":
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
            response = make_response(redirect(url_for("posts.home")))
            remember_device(user.name, response)
            sign_in(user)
            flash(f"Welcome, @{user.name}. Say hello!")
            return response
    return render_template("accounts/register.html", form=form), 422


@bp.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Sign in; how often that may be tried is limited before any password is hashed."""
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
        form.password.errors.append("That name and password don't belong together.")
        return render_template("accounts/login.html", form=form), 422
    count_attempt(sign_in_rules(user.id))
    current_limiter().give_back(attempt)
    response = make_response(redirect(local_path(form.next.data) or url_for("posts.home")))
    remember_device(form.username.data, response)
    sign_in(user)
    return response


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
    """Show every place where the viewer is signed in."""
    places = current_interface().active(viewer().id)
    return render_template("accounts/sessions.html", places=places, this=current_session().sid)


@bp.post("/settings/sessions/<handle>/end")
@login_required
def end_session(handle: str) -> ResponseReturnValue:
    """End one session of the viewer's, at once and on every process."""
    ended = current_interface().end_one(viewer().id, handle)
    flash("That session is ended." if ended else "That session had ended already.")
    return redirect(url_for("accounts.sessions"))


@bp.post("/settings/sessions/end-others")
@login_required
def end_all_other_sessions() -> ResponseReturnValue:
    """End all of the viewer's sessions but this one."""
    count = end_other_sessions()
    flash(f"Logged out in {count} other place{'' if count == 1 else 's'}.")
    return redirect(url_for("accounts.sessions"))


@bp.route("/settings/password", methods=["GET", "POST"])
@login_required
def change_password() -> ResponseReturnValue:
    """Change the password; that ends all of the user's sessions but this one, which gets a new id."""
    form = PasswordForm()
    if request.method != "POST":
        return render_template("accounts/password.html", form=form)
    attempt = count_attempt(rules_for_this_browser(viewer().name))
    if not form.validate():
        return render_template("accounts/password.html", form=form), 422
    if not viewer().has_password(form.current_password.data):
        form.current_password.errors.append("That is not your current password.")
        return render_template("accounts/password.html", form=form), 422
    count_attempt(sign_in_rules(viewer().id))
    current_limiter().give_back(attempt)
    end_other_sessions()  # before: if Redis is away, nothing has changed
    viewer().change_password(form.new_password.data)
    sign_in(viewer())
    end_other_sessions()  # and after: nobody stays who came in with the old password meanwhile
    current_limiter().forget_devices(viewer().name)
    flash("Your password is changed. Everywhere else you're logged out now.")
    response = make_response(redirect(url_for("posts.home")))
    remember_device(viewer().name, response)
    return response
