"""``laptops.csv``: which laptops belong to the site.

One line per laptop under a line of column names: ``serial,uuid,group,stream,name,
stolen``. Only ``serial`` is required, and the columns may stand in any order. Lists
come out of spreadsheets, so a byte-order mark, UTF-16, semicolons or tabs between the
fields, empty columns at the end and the Spanish names of the columns are understood. A
list is read whole or not at all.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

from olpc_update_query.errors import BadImport, DamagedSite, Malformed
from olpc_update_query.model.wire import parse_serial, parse_token, parse_uuid, shown

COLUMNS: Final = ("serial", "uuid", "group", "stream", "name", "stolen")

_SPANISH: Final = {
    "serie": "serial",
    "grupo": "group",
    "canal": "stream",
    "nombre": "name",
    "robado": "stolen",
}
_YES: Final = {"stolen", "yes", "true", "1", "x", "robado", "sí", "si"}
_NO: Final = {"no", "false", "0"}
_XO_SERIAL: Final = re.compile(r"[A-Z]{3}[0-9A-F]{8}", re.IGNORECASE)
_ZIP: Final = b"PK\x03\x04"
_QUOTED: Final = re.compile(r'"(?:[^"]|"")*+("?)')
_MAX_TEXT: Final = 64

Cells = dict[str, str]
"""The cells of one laptop that say something, by column."""


class Laptop(NamedTuple):
    """A laptop of the site.

    Attributes:
        serial: Its serial number.
        uuid: The UUID that its lease names; without one it gets no lease.
        group: The class, school or room it belongs to.
        stream: The update stream; wins over what the laptop itself says.
        name: Whose it is, for people.
        stolen: Whether it is told so.
    """

    serial: str
    uuid: str | None = None
    group: str | None = None
    stream: str | None = None
    name: str | None = None
    stolen: bool = False


class Imported(NamedTuple):
    """What an import did.

    Attributes:
        laptops: All laptops, with the new ones.
        added: How many are new.
        changed: How many were known and said something else.
    """

    laptops: dict[str, Laptop]
    added: int
    changed: int


def normal_serial(text: str) -> str:
    """Check a serial number; an XO's is upper case, as its firmware has it.

    Raises:
        Malformed: It is not a serial number.
    """
    serial = parse_serial(text)
    return serial.upper() if _XO_SERIAL.fullmatch(serial) else serial


def parse_group(text: str) -> str:
    """Check the name of a group: up to 64 printable characters.

    Raises:
        Malformed: It is not a name.
    """
    if not text or len(text) > _MAX_TEXT or not text.isprintable():
        raise Malformed("name", f"{shown(text)} is not 1 to 64 printable characters")
    return text


def parse_stream(text: str) -> str:
    """Check the name of a stream.

    Raises:
        Malformed: It is not a name.
    """
    return parse_token("stream", text)


def _parse_stolen(text: str) -> str:
    word = text.lower()
    if word in _YES:
        return "stolen"
    if word in _NO:
        return ""
    raise Malformed("mark", f"{shown(text)} is neither stolen nor no")


_PARSERS: Final[Mapping[str, Callable[[str], str]]] = {
    "serial": normal_serial,
    "uuid": parse_uuid,
    "group": parse_group,
    "stream": parse_stream,
    "name": parse_group,
    "stolen": _parse_stolen,
}


class _Sheet:
    """A list of laptops as rows of cells, with the place of each for messages."""

    def __init__(self, data: bytes, file: str, error: type[DamagedSite]) -> None:
        self._file, self._error, self._line = file, error, 1
        text = self._decode(data)
        self._text, self._mark = text, _separator(text)
        lines = io.StringIO(text, newline="")
        self._reader = csv.reader(lines, delimiter=self._mark, strict=True)

    def _decode(self, data: bytes) -> str:
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            return data.decode("utf-16" if is_wide else "utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("latin-1")
            self._line = before.count("\n") + 1
            column = _Cells(before.rpartition("\n")[2], _separator(before)).column
            wrong = "is not UTF-8"
            if data.startswith(_ZIP):
                self._line, column, wrong = 1, 1, "is a spreadsheet and no CSV"
            raise self.fault(column, f"{wrong}; save the sheet as CSV UTF-8") from error

    def fault(self, column: int, reason: str) -> DamagedSite:
        where = f"{self._file}, line {self._line}, column {column}"
        return self._error(where, reason)

    def rows(self) -> Iterator[list[str]]:
        """Iterate the rows that are not empty; quoted cells may span lines."""
        while True:
            self._line = self._reader.line_num + 1
            try:
                cells = [cell.strip() for cell in next(self._reader)]
            except StopIteration:
                return
            except csv.Error as error:
                lines = io.StringIO(self._text, newline="")
                row = "".join(islice(lines, self._line - 1, self._reader.line_num))
                found = _Cells(row, self._mark)
                wrong = found.fault or f"is not CSV: {error}"
                raise self.fault(found.column, wrong) from error
            if any(cells):
                yield cells


def _separator(text: str) -> str:
    """Return what stands between the cells, by the first line."""
    return max(",;\t", key=text.split("\n", 1)[0].count)


class _Cells:
    """Looks for what is wrong in a row that is not CSV.

    Args:
        text: The row, which quoted cells may spread over lines.
        mark: What stands between the cells.

    Attributes:
        column: The cell that is wrong, or the last one; the first is 1.
        fault: What is wrong with it; empty if nothing is wrong with its quotes.
    """

    def __init__(self, text: str, mark: str) -> None:
        self.column, self.fault = 0, ""
        place = -1
        while place < len(text):
            self.column, place = self.column + 1, place + 1
            quoted = _QUOTED.match(text, place)
            if quoted is None:
                place = text.find(mark, place)
                if place < 0:
                    return
                continue
            place = quoted.end()
            if not quoted[1]:
                self.fault = "a quotation mark is opened here and never closed"
                return
            if text[place : place + 1] not in {mark, "\r", "\n", ""}:
                self.fault = "something follows the closing quotation mark"
                return


def _read_columns(sheet: _Sheet, rows: Iterator[list[str]]) -> list[str]:
    names = [cell.lower() for cell in next(rows, [])]
    while names and not names[-1]:
        names.pop()
    names = [_SPANISH.get(name, name) for name in names]
    for number, name in enumerate(names, 1):
        if name not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise sheet.fault(number, f"{shown(name)} is no column; there are {known}")
        if name in names[: number - 1]:
            raise sheet.fault(number, f"the column {name} is there twice")
    if "serial" not in names:
        raise sheet.fault(1, "the first line does not name a column serial")
    return names


def _read_row(sheet: _Sheet, columns: list[str], row: list[str]) -> Cells:
    if len(row) > len(columns) and any(row[len(columns) :]):
        raise sheet.fault(len(columns) + 1, "there are more cells than columns")
    cells = {}
    for number, (name, text) in enumerate(zip(columns, row, strict=False), 1):
        if not text:
            continue
        try:
            cells[name] = _PARSERS[name](text)
        except Malformed as error:
            raise sheet.fault(number, f"{name}: {error.reason}") from error
    if "serial" not in cells:
        raise sheet.fault(columns.index("serial") + 1, "the serial number is missing")
    return cells


def read_rows(
    data: bytes, file: str, error: type[DamagedSite] = BadImport
) -> dict[str, Cells]:
    """Read a list of laptops.

    Args:
        data: The file's bytes.
        file: Its name, for messages.
        error: What to raise.

    Returns:
        By serial number, the cells that say something.

    Raises:
        BadImport: Or whatever ``error`` is; line and column are named.
    """
    sheet = _Sheet(data, file, error)
    rows = sheet.rows()
    columns = _read_columns(sheet, rows)
    found: dict[str, Cells] = {}
    for row in rows:
        cells = _read_row(sheet, columns, row)
        if cells["serial"] in found:
            number = columns.index("serial") + 1
            raise sheet.fault(number, f"{cells['serial']} is there twice")
        found[cells["serial"]] = cells
    return found


def _fill(laptop: Laptop, cells: Cells) -> Laptop:
    stolen = bool(cells["stolen"]) if "stolen" in cells else laptop.stolen
    return laptop._replace(
        uuid=cells.get("uuid", laptop.uuid),
        group=cells.get("group", laptop.group),
        stream=cells.get("stream", laptop.stream),
        name=cells.get("name", laptop.name),
        stolen=stolen,
    )


def parse_laptops(data: bytes, file: str = "laptops.csv") -> dict[str, Laptop]:
    """Read the site's own list.

    Raises:
        DamagedSite: It is malformed; line and column are named.
    """
    rows = read_rows(data, file, DamagedSite)
    return {serial: _fill(Laptop(serial), cells) for serial, cells in rows.items()}


def import_rows(known: Mapping[str, Laptop], rows: Mapping[str, Cells]) -> Imported:
    """Add laptops to those that are known.

    An empty cell keeps what was known; nobody is removed.

    Args:
        known: The laptops so far, by serial number.
        rows: What ``read_rows`` found.
    """
    laptops, added, changed = dict(known), 0, 0
    for serial, cells in rows.items():
        filled = _fill(laptops.get(serial, Laptop(serial)), cells)
        added += serial not in known
        changed += serial in known and filled != known[serial]
        laptops[serial] = filled
    return Imported(laptops, added, changed)


def write_laptops(laptops: Mapping[str, Laptop]) -> bytes:
    """Write the list, sorted by serial number, as ``parse_laptops`` reads it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for serial in sorted(laptops):
        cells = laptops[serial]._replace(stolen=False)[:5]
        writer.writerow([*cells, "stolen" if laptops[serial].stolen else ""])
    return text.getvalue().encode()
