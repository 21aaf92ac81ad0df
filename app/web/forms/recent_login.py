"""The form that asks for the password once more."""

from wtforms import HiddenField

from app.web.forms import Form, password_field


class ConfirmForm(Form):
    """The password, beside whatever another form has sent; so its name is its own."""

    confirmed_password = password_field("Password", autofocus=True)
    next = HiddenField()
    resend = HiddenField()  # not empty if another form is waiting
