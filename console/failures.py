"""What goes wrong in a command, as one message on stderr and an exit code."""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
from typing import Any, NoReturn

import psycopg
import typer
import typer.core

from retrieval_db.database import translate
from retrieval_db.errors import RetrievalError, UsageError

from .screen import note

INTERRUPTED = 130

# No room is left for what is written.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# --root="$FOLDER" of which the variable is not set.
EMPTY_OPTION = re.compile(r"--[a-z0-9-]+=")

KEPT = "What was written is kept; the same command continues."
AFTER_CTRL_C = {
    "index": KEPT,
    "load": KEPT,
    "train": "The same command with --resume continues.",
}


class Commands(typer.core.TyperGroup):
    """The program's commands: exit code 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse empty words: as a folder or a file they would mean where the user stands."""
        options = itertools.takewhile(lambda word: word != "--", args)
        if "" in args or any(EMPTY_OPTION.fullmatch(word) for word in options):
            _fail(
                UsageError(
                    "An argument is empty; perhaps a variable of the shell is not set. For the "
                    "folder that you are in say `.` instead."
                )
            )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; RETRIEVAL_DB_DEBUG shows the traceback of an error."""
        if sys.stdout is None:
            # Whatever is opened next would get its number, and what is printed.
            _fail(UsageError("Standard output is closed; to see nothing, send it to /dev/null."))
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (RetrievalError, psycopg.Error) as error:
            if os.environ.get("RETRIEVAL_DB_DEBUG"):
                raise
            _fail(error)
        except KeyboardInterrupt:
            note(f"Interrupted. {AFTER_CTRL_C.get(ctx.invoked_subcommand, '')}".rstrip())
            raise typer.Exit(INTERRUPTED) from None
        except UnicodeEncodeError as error:
            # Bytes of the command line that are no UTF-8 come as surrogates.
            _fail(UsageError(f"{error.object!r} is not UTF-8, as all that the database takes is."))
        except BrokenPipeError:
            # The reader of our output left, as `head` does.
            _drop_output()
            raise typer.Exit(0) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            _drop_output()
            _fail(RetrievalError(f"Cannot write: {error.strerror}."))
        return result


def _drop_output() -> None:
    """Let what is still in the buffer of stdout go nowhere, or Python would try once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: RetrievalError | psycopg.Error) -> NoReturn:
    ours = translate(error) if isinstance(error, psycopg.Error) else error
    note(f"Error: {ours}")
    raise typer.Exit(2 if isinstance(ours, UsageError) else 1) from None
