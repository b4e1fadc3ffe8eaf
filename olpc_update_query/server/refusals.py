"""Why a request was refused, in words that the catalog has in every language."""

from collections.abc import Mapping
from typing import Final

from werkzeug.exceptions import (
    Conflict,
    HTTPException,
    InternalServerError,
    NotFound,
)

from olpc_update_query.errors import (
    NoAssignment,
    UnknownBuild,
    UnknownLaptop,
    UpdateError,
)

_ASKED_AMISS: Final[Mapping[type[UpdateError], str]] = {
    UnknownBuild: "That build is not published.",
    NoAssignment: "Nothing is assigned there.",
    UnknownLaptop: "That laptop is not in laptops.csv.",
}
NO_SERIAL: Final = "That is no serial number."
NOBODY: Final = "That is no serial number, group or stream."
NOT_SHOWN: Final = "Forbidden: this page is not shown to your address."
NOT_OURS: Final = "Forbidden: log in again, and use the form that is shown then."
NO_BUILD: Final = "It has not said which build it runs."
NO_LAPTOP: Final = "There is no such laptop."
_NO_PAGE: Final = "There is no such page."
_NOT_UNDERSTOOD: Final = "The server did not understand that."
_NOT_NOW: Final = (
    "The server cannot do that now. Its log and the command check tell more."
)


class Refused(HTTPException):
    """A request is refused, for a reason that a person is told.

    Args:
        code: The HTTP status.
        text: Why, of the catalog of words.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def why_refused(error: HTTPException) -> str:
    """Return why a request was refused."""
    if isinstance(error, Refused):
        return error.text
    return _NO_PAGE if error.code == NotFound.code else _NOT_UNDERSTOOD


def why_failed(error: UpdateError) -> tuple[int, str]:
    """Return the HTTP status of a failure, and what it was.

    What somebody asked for may not be there; else something is wrong with the site.
    """
    for kind, text in _ASKED_AMISS.items():
        if isinstance(error, kind):
            return Conflict.code, text
    return InternalServerError.code, _NOT_NOW
