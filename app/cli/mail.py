"""`flask mail`: the mails that wait or have failed; send them again, and try whether sending works.

On Heroku: `heroku run -- flask mail list`.
"""

import json
from datetime import UTC, datetime

import click

from app.cli.common import AS_JSON, Group
from app.mail import Letter, MailError, current_mailer
from app.models.mail import GIVE_UP, KEPT, Mail

TRIAL = """This is a trial of the mail settings of {site}.

If you can read it, they work. Links in mails lead to {url}.
"""


@click.group(cls=Group)
def mail() -> None:
    """See mails that wait or have failed, send them again, and try the settings."""


@mail.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List mails that are not sent: number, state, attempts, kind, recipient, when written, what the server said."""
    for one in Mail.unsent():
        state = "failed" if one.failed_at else "waiting"
        about = {
            "id": one.id,
            "state": state,
            "attempts": one.attempts,
            "kind": one.kind,
            "recipient": one.recipient,
            "written": one.created_at.isoformat(),
            "error": one.error or None,
        }
        line = f"{one.id:>8}  {state:<7}  {one.attempts:>3}  {one.kind:<8}  {one.recipient:<30}  "
        line += f"{one.created_at:%Y-%m-%d %H:%M}  {one.error}"
        click.echo(json.dumps(about) if as_json else line.rstrip())


@mail.command()
def count() -> None:
    """Count the mails that wait and those that have failed."""
    waiting, failed, _ = Mail.counts()
    click.echo(f"{waiting} waiting, {failed} failed")


@mail.command("retry", help=f"Send the failed mail NUMBER again, or all that have failed in the last {KEPT.days} days.")
@click.argument("number", type=int, required=False)
def retry(number: int | None) -> None:
    """Begin again with mails that have failed; the web processes or the worker send them."""
    again = Mail.send_again(number)
    if not again and number is not None:
        raise click.ClickException(f"No mail with number {number} has failed.")
    click.echo(f"{again} mail{'' if again == 1 else 's'} will be sent again, for up to {GIVE_UP.days} days.")


@mail.command()
@click.argument("address")
def trial(address: str) -> None:
    """Send a mail to ADDRESS now, to see whether the settings are right."""
    mailer = current_mailer()
    config = mailer.config
    text = TRIAL.format(site=config.site_name, url=config.mail_site_url)
    try:
        mailer.deliver(Letter(0, address, f"A trial of {config.site_name}", text, datetime.now(UTC)))
    except MailError as error:
        raise click.ClickException(f"Not sent: {error}") from None
    click.echo("The mail server has accepted it." if config.smtp else "Kept, because SMTP_URL is not set.")
