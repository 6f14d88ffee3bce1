"""Everything that can go wrong, under one root.

    RetrievalError
    ├── DatabaseError               the database, or the way to it
    │   ├── ConnectionFailed        no server there, or it refused us
    │   ├── ConnectionLost          the server went away in the middle
    │   ├── NotMigrated             our tables are not there, or are older than the program
    │   ├── SchemaTooNew            the tables are newer than the program
    │   ├── ForeignTable            a table of our name that we did not make
    │   ├── PermissionDenied        the role may not do this
    │   └── MissingExtension        the fine stage without pgvector
    ├── ServerError                 the embedded PostgreSQL does not start, stop or upgrade
    ├── CodeError                   hash codes that cannot be what they are said to be
    │   ├── InvalidCode             not a hash code: wrong text, range or array
    │   └── WrongWidth              a code of another length than its encoder's
    ├── EncoderError                which network made a code
    │   ├── UnknownEncoder          no encoder of that name
    │   ├── EncoderConflict         the same name, another fingerprint
    │   ├── EncoderUnavailable      known, but it cannot encode here (no artifact, no weights)
    │   └── NotEnoughImages         too few images to fit a head
    ├── ImageError                  a file that is not a readable image
    ├── UnknownImage                no row with that id or path
    ├── TooManyPairs                a list of near-duplicates that nobody could read
    ├── DataUnavailable             a data set that is not here and cannot be downloaded
    ├── FormatError                 a file that is not in the format it should be in
    ├── MissingExtra                a part of this package that is not installed
    └── UsageError                  arguments that contradict each other (exit code 2)

A message names the cure. The docstring of a class is its message when none is given.
"""

from __future__ import annotations


class RetrievalError(Exception):
    """Something went wrong in the image retrieval."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class DatabaseError(RetrievalError):
    """The database answered with an error."""


class ConnectionFailed(DatabaseError):
    """The database cannot be reached."""


class ConnectionLost(DatabaseError):
    """The database server went away. What was committed is safe; run the same command again."""


class NotMigrated(DatabaseError):
    """The database has not been migrated. Run `retrieval-db migrate` with the same --database."""


class SchemaTooNew(DatabaseError):
    """The database was migrated by a newer version of retrieval-db. Upgrade the program."""


class ForeignTable(DatabaseError):
    """A table of this name exists and is not ours."""


class PermissionDenied(DatabaseError):
    """The role is not allowed to do this."""


class MissingExtension(DatabaseError):
    """The fine stage needs the extension `vector` (pgvector 0.7 or later)."""


class ServerError(RetrievalError):
    """The embedded PostgreSQL server failed."""


class CodeError(RetrievalError):
    """This is not a usable hash code."""


class InvalidCode(CodeError):
    """This is not a hash code."""


class WrongWidth(CodeError):
    """The code has another width than its encoder's."""


class EncoderError(RetrievalError):
    """The encoder cannot be used."""


class UnknownEncoder(EncoderError):
    """There is no encoder of this name. `retrieval-db encoders list` shows those there are."""


class EncoderConflict(EncoderError):
    """Another encoder of this name is stored already."""


class EncoderUnavailable(EncoderError):
    """The encoder is known, but cannot encode images here."""


class NotEnoughImages(EncoderError):
    """There are too few images to fit this encoder."""


class ImageError(RetrievalError):
    """The file is not a readable image."""


class UnknownImage(RetrievalError):
    """There is no image of this id or path."""


class TooManyPairs(RetrievalError):
    """There are more pairs of near-duplicates than were allowed."""


class DataUnavailable(RetrievalError):
    """The data set is not here, and cannot be downloaded."""


class FormatError(RetrievalError):
    """The file is not in the expected format."""


class MissingExtra(RetrievalError):
    """An optional part of retrieval-db is not installed."""


class UsageError(RetrievalError):
    """The arguments contradict each other."""
