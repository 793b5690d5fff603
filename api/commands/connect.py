"""What every subcommand that talks to the API shares: its client and ``--json``."""

import click

from api.client import Client
from store.settings import settings

as_json_option = click.option("--json", "as_json", is_flag=True, help="print JSON, as the API answers it")

yes_option = click.option("--yes", is_flag=True, help="do it; without this nothing is deleted")


def connect() -> Client:
    """A client of the API at LIVERSEG_URL; use it as a context."""
    return Client(settings().url, settings().token)
