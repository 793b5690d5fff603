"""``liverseg webhook``: who is told when runs and experiments end."""

from typing import Any

import click

from api.commands import show
from api.commands.connect import as_json_option, connect
from liverseg_core.errors import LiversegError
from store.states import FINAL

PAGE = 500
EVENTS = ["run.ended", "experiment.ended"]

number = click.argument("number", metavar="WEBHOOK", type=click.IntRange(1))


@click.group()
def webhook() -> None:
    """Webhooks: signed messages to an address when runs and experiments end."""


@webhook.command("add")
@click.argument("url")
@click.option("--event", "events", multiple=True, type=click.Choice(EVENTS), help="what to tell  [default: both]")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(sorted(map(str, FINAL))),
    help="in which states runs end that are told of  [default: all]",
)
@as_json_option
def add(url: str, events: tuple[str, ...], states: tuple[str, ...], as_json: bool) -> None:
    """Let URL be told when runs and experiments end, and print its secret, alone on a line.

    The secret is never shown again; with it the receiver checks that a message is ours (docs/webhooks.md).
    """
    with connect() as client:
        made = client.add_webhook(url, events, states)
    if as_json:
        show.print_json(made)
        return
    click.echo(f"webhook {made['id']}: {show.clean(made['url'])}", err=True)
    click.echo(made["secret"])


@webhook.command("list")
@as_json_option
def list_webhooks(as_json: bool) -> None:
    """List the project's webhooks, newest first."""
    with connect() as client:
        found = client.webhooks(PAGE)
    if as_json:
        show.print_json({"webhooks": found})
        return
    columns = {"id": "Webhook", "url": "URL", "events": "Events", "states": "States", "active": "Active"}
    columns |= {"failures": "Failures", "due_at": "Next attempt", "created_by": "Created by"}
    show.print_sheet(show.records_sheet([_in_words(one) for one in found], columns))


@webhook.command("show")
@number
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="messages to show")
@as_json_option
def show_webhook(number: int, limit: int, as_json: bool) -> None:
    """Show a webhook and what became of its last messages."""
    with connect() as client:
        found = client.webhook(number, limit)
    if as_json:
        show.print_json(found)
        return
    told = _in_words(found)
    told["due_at"] = told["due_at"] and show.moment(told["due_at"])
    show.print_card((name, show.clean(told[key])) for name, key in CARD.items() if told[key] is not None)
    columns = {"created_at": "Written", "event": "Event", "attempts": "Attempts", "attempted_at": "Last attempt"}
    columns |= {"status": "Status", "error": "Error", "done_at": "Done", "message": "Message"}
    show.print_sheet(show.records_sheet(found["deliveries"], columns), "no messages so far")


CARD = {
    "webhook": "id",
    "address": "url",
    "told of": "events",
    "in states": "states",
    "active": "active",
    "off because": "off_reason",
    "off by": "off_by",
    "failed in a row": "failures",
    "next attempt": "due_at",
    "waiting": "waiting",
    "made by": "created_by",
}


def _in_words(one: dict[str, Any]) -> dict[str, Any]:
    words = {name: ", ".join(one[name]) for name in ("events", "states")}
    return {**one, **words, "active": "yes" if one["active"] else "no"}


@webhook.command("switch")
@number
@click.argument("to", metavar="on|off", type=click.Choice(["on", "off"]))
@as_json_option
def switch(number: int, to: str, as_json: bool) -> None:
    """Switch a webhook on or off; what ends while it is off is not told later."""
    with connect() as client:
        changed = client.switch_webhook(number, to == "on")
    show.print_json(changed) if as_json else click.echo(f"webhook {changed['id']}: {to}")


@webhook.command("remove")
@number
@as_json_option
def remove(number: int, as_json: bool) -> None:
    """Remove a webhook and what it has not taken yet."""
    with connect() as client:
        gone = client.remove_webhook(number)
    show.print_json(gone) if as_json else click.echo(f"webhook {gone['id']}: removed")


@webhook.command("test")
@number
@as_json_option
def test(number: int, as_json: bool) -> None:
    """Send a message of type `test` now; exit 1 if the receiver does not take it."""
    with connect() as client:
        sent = client.test_webhook(number)
    if as_json:
        show.print_json(sent)
    if sent["error"] is not None:
        raise LiversegError(f"webhook {number}: {show.clean(sent['error'])}")
    if not as_json:
        click.echo(f"webhook {number}: answered {sent['status']}")


COMMANDS = [webhook]
