"""``liverseg project`` and ``liverseg token``: whose things are whose, and who may come in."""

import re
from datetime import UTC, datetime, timedelta

import click

from api.client import Client
from api.commands import show
from api.commands.connect import as_json_option, connect
from liverseg_core.errors import InputError

PAGE = 500
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1)}


@click.group()
def project() -> None:
    """Projects: create, list, rename. Nothing of one is seen from another."""


@project.command("create")
@click.argument("name")
@as_json_option
def create_project(name: str, as_json: bool) -> None:
    """Make a new, empty project NAME; a token of it lets people in."""
    with connect() as client:
        made = client.create_project(name)
    show.print_json(made) if as_json else click.echo(f"project {made['id']} {show.clean(made['name'])}")


@project.command("list")
@as_json_option
def list_projects(as_json: bool) -> None:
    """List the projects, newest first."""
    with connect() as client:
        found = client.projects(PAGE)
    columns = {"id": "Project", "name": "Name", "created_by": "Created by"}
    show.print_json({"projects": found}) if as_json else show.print_sheet(show.records_sheet(found, columns))


@project.command("rename")
@click.argument("name")
@click.argument("new")
@as_json_option
def rename_project(name: str, new: str, as_json: bool) -> None:
    """Call the project NAME by a NEW name; its tokens stay valid."""
    with connect() as client:
        renamed = client.rename_project(_project(client, name), new)
    show.print_json(renamed) if as_json else click.echo(f"project {renamed['id']} {show.clean(renamed['name'])}")


def _project(client: Client, name: str) -> int:
    """The id of the project of this name."""
    before = None
    while page := client.projects(PAGE, before):
        for one in page:
            if one["name"] == name:
                return int(one["id"])
        before = page[-1]["id"]
    raise InputError("name", "there is no such project; see `liverseg project list`", name)


@click.group()
def token() -> None:
    """Tokens: create, list, revoke. Once there is one, every request needs one."""


@token.command("create")
@click.argument("name")
@click.option(
    "--scope",
    default="write",
    show_default=True,
    type=click.Choice(["read", "write", "admin"]),
    help="admin also makes projects and tokens, of the whole installation",
)
@click.option("--project", "project_", help="which project it opens  [default: the one of your own token]")
@click.option("--expires", help="how long it holds, such as 12h or 90d  [default: until it is revoked]")
@as_json_option
def create_token(name: str, scope: str, project_: str | None, expires: str | None, as_json: bool) -> None:
    """Make a token for NAME and print its secret, alone on a line; it is never shown again.

    The first token must be of scope admin. Commands send what LIVERSEG_TOKEN holds.
    """
    with connect() as client:
        made = client.create_token(name, scope, project_, _until(expires))
    if as_json:
        show.print_json(made)
        return
    click.echo(
        f"token {made['id']} {show.clean(made['name'])}: {made['scope']}, project {show.clean(made['project'])}, "
        f"{'until ' + show.moment(made['expires_at']) if made['expires_at'] else 'until it is revoked'}",
        err=True,
    )
    click.echo(made["secret"])


def _until(expires: str | None) -> str | None:
    """``90d`` from now as ISO 8601."""
    if expires is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", expires)
    if match is None:
        raise InputError("--expires", "is written as hours or days, such as 12h or 90d", expires)
    return (datetime.now(UTC) + int(match[1]) * UNITS[match[2]]).isoformat()


@token.command("list")
@as_json_option
def list_tokens(as_json: bool) -> None:
    """List the tokens of every project, newest first; secrets are kept nowhere."""
    with connect() as client:
        found = client.tokens(PAGE)
    columns = {"id": "Token", "name": "Name", "project": "Project", "scope": "Scope", "created_by": "Created by"}
    columns |= {
        "created_at": "Created",
        "expires_at": "Expires",
        "revoked_at": "Revoked",
        "revoked_by": "Revoked by",
        "last_used_at": "Last used",
    }
    show.print_json({"tokens": found}) if as_json else show.print_sheet(show.records_sheet(found, columns))


@token.command("revoke")
@click.argument("token_", metavar="TOKEN", type=click.IntRange(1))
@as_json_option
def revoke_token(token_: int, as_json: bool) -> None:
    """End the token with the id TOKEN for good; it is refused within two seconds."""
    with connect() as client:
        ended = client.revoke_token(token_)
    show.print_json(ended) if as_json else click.echo(f"token {ended['id']} {show.clean(ended['name'])}: revoked")


COMMANDS = [project, token]
