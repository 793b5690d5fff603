"""The ``liverseg`` command: its group, its exit codes, and how errors are told.

Subcommands live in the other modules of ``api.commands``, which list them in ``COMMANDS``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from api.client import ApiError, Unreachable
from api.commands import (
    access,
    backups,
    compare,
    data,
    disk,
    export,
    figure,
    nnunet,
    predict,
    printed,
    runs,
    scoring,
    services,
    study,
    webhooks,
)
from liverseg_core.errors import InputError, LiversegError

FAILED, WRONG_USAGE, UNREACHABLE = 1, 2, 3

# \b keeps click from wrapping the lines.
EXIT_CODES = """\b
Exit codes:
  0  done
  1  what was asked about failed, e.g. a run that did not succeed or a service that does not start
  2  wrong usage or bad input
  3  the API cannot be reached
"""


class Failed(click.ClickException):
    exit_code = FAILED


class WrongUsage(click.ClickException):
    exit_code = WRONG_USAGE


class NoAnswer(click.ClickException):
    exit_code = UNREACHABLE


class Commands(click.Group):
    """A group that turns expected errors into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        with _told_in_words():
            return super().invoke(ctx)


@contextmanager
def _told_in_words() -> Iterator[None]:
    try:
        yield
    except Unreachable as error:
        raise NoAnswer(f"{error} LIVERSEG_URL says where commands look for the API.") from None
    except ApiError as error:
        raise _kind(error.status)(_answer(error)) from None
    except InputError as error:
        raise WrongUsage(str(error)) from None
    except LiversegError as error:
        raise Failed(str(error)) from None
    except BrokenPipeError:
        raise  # whoever read the output has gone; click ends quietly
    except OSError as error:  # a file that cannot be written, a full disk
        raise Failed(f"{error.filename or 'file'}: {error.strerror or error}") from None


def _answer(error: ApiError) -> str:
    if error.status == 401:
        return f"{error}\nSet LIVERSEG_TOKEN to a token of this API (`liverseg token create` makes one)."
    return str(error)


def _kind(status: int) -> type[click.ClickException]:
    """409 is an answer about the thing asked for; other 4xx say that the request cannot be."""
    if status in (502, 503, 504):
        return NoAnswer
    return WrongUsage if 400 <= status < 500 and status != 409 else Failed


@click.group(
    cls=Commands,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="liverseg", prog_name="liverseg")
def main() -> None:
    """Describe liver and lesion segmentation experiments, run them, compare them.

    `liverseg demo` shows everything in two minutes; `liverseg up` starts the services that the other commands
    talk to, at LIVERSEG_URL (http://127.0.0.1:8421).
    """
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end a command
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


for _module in (
    services,
    data,
    runs,
    scoring,
    predict,
    compare,
    figure,
    export,
    printed,
    nnunet,
    study,
    disk,
    access,
    webhooks,
    backups,
):
    for _command in _module.COMMANDS:
        main.add_command(_command)


if __name__ == "__main__":
    main()
