"""Reads tar archives: ustar, GNU and PAX, and whatever of them can hold a tree.

Python's own ``tarfile`` trusts what it reads: a header can make it read gigabytes into
memory or run for ever, and it drops fractions of seconds. This reader takes every
number from bounded fields, holds no more than a header at a time, and refuses what it
does not know. It reads headers only and says where the contents lie.

POSIX.1-2001 (pax, "ustar Interchange Format" and "pax Header Block"), and the chapter
"Basic Tar Format" of GNU tar's manual, describe the fields.
"""

import base64
import re
import struct
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from olpc_update_query.errors import Malformed
from olpc_update_query.model.entry import MAX_INT

BLOCK: Final = 512
MAX_EXTENDED: Final = 4 << 20
"""The longest extended header, which holds names and attributes."""

_MAX_HOLES: Final = 200_000
_MAX_DEFAULTS: Final = 1000
_NANO: Final = 1_000_000_000
_SECONDS: Final = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_NUMBER: Final = re.compile(rb"[0-9]{1,18}")
_RECORD: Final = re.compile(rb"([1-9][0-9]{0,8}) ([^=\n]+)=")
_XATTR, _XATTR64 = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."
_ACLS: Final = {
    b"SCHILY.acl.access": b"system.posix_acl_access",
    b"SCHILY.acl.default": b"system.posix_acl_default",
}
_ACL_TAGS: Final = {
    (b"user", True): 1,
    (b"user", False): 2,
    (b"group", True): 4,
    (b"group", False): 8,
    (b"mask", True): 16,
    (b"other", True): 32,
}
_ACL_LINE: Final = re.compile(
    rb"([a-z]+):([0-9]{0,9}):([r-][w-][x-])(?::([0-9]{1,9}))?"
)
_NOBODY: Final = 0xFFFFFFFF


class Type(Enum):
    """What a member of an archive is, by its type flag."""

    FILE = b"0"
    HARD = b"1"
    SYMLINK = b"2"
    CHAR = b"3"
    BLOCK = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


_SAME: Final = {b"\0": b"0", b"7": b"0", b"S": b"0"}


class Stretch(NamedTuple):
    """A part of a file that is no hole.

    Attributes:
        start: Its offset in the file.
        length: Its length in bytes.
        place: Its offset in the archive.
    """

    start: int
    length: int
    place: int


class Member(NamedTuple):
    """One path of an archive, as it is written there.

    Attributes:
        name: Its path.
        type: What it is.
        mode: Permission bits.
        uid: Owner.
        gid: Group.
        mtime_ns: Modification time, nanoseconds since the epoch.
        target: Where a symbolic link points, or the first name of a hard link.
        device: Major and minor number.
        xattrs: Extended attributes by name.
        size: Length of a file in bytes, holes included.
        parts: Where a file's content lies, in order; between them are holes.
    """

    name: bytes
    type: Type
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: bytes
    device: tuple[int, int]
    xattrs: Mapping[bytes, bytes]
    size: int
    parts: tuple[Stretch, ...]


_Records = list[tuple[bytes, bytes]]


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Read an archive from its first byte to its end.

    Args:
        file: The archive; it must be seekable.

    Yields:
        Its members in the order of the archive.

    Raises:
        Malformed: It is damaged, cut short, or holds what this does not know.
    """
    reader = _Reader(file)
    while (member := reader.next()) is not None:
        yield member
    reader.check_end()


class _Reader:
    """Reads one member after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at = file, 0
        self._defaults: dict[bytes, bytes] = {}

    def next(self) -> Member | None:
        """Return the next member; None at the end of the archive."""
        records: _Records = []
        longer: dict[bytes, bytes] = {}
        while (head := self._header()) is not None:
            flag = head[156:157]
            if flag == b"x":
                records = parse_records(self._extended(head))
            elif flag == b"g":
                self._set_defaults(parse_records(self._extended(head)))
            elif flag in {b"L", b"K"}:
                longer[flag] = self._extended(head).rstrip(b"\0")
            elif flag == b"V":  # the archive's own name
                continue
            else:
                return self._member(head, records, longer)
        if records or longer:
            raise self._fault("it ends behind an extended header")
        return None

    def _set_defaults(self, records: _Records) -> None:
        self._defaults.update(records)
        if len(self._defaults) > _MAX_DEFAULTS:
            raise self._fault("too many extended headers for all members")

    def _header(self) -> bytes | None:
        """Return the next header block; None at a block of zeros."""
        head = self._read(BLOCK)
        if not any(head):
            return None
        try:
            told = _octal(head[148:156])
        except Malformed:
            told = -1
        blank = head[:148] + b" " * 8 + head[156:]
        if told not in {sum(blank), sum(struct.unpack("512b", blank))}:
            if self._at == BLOCK:
                raise self._fault("it is no tar archive, or its beginning is damaged")
            raise self._fault("a header's checksum is wrong")
        return head

    def _read(self, count: int) -> bytes:
        self._file.seek(self._at)
        data = self._file.read(count)
        if len(data) < count:
            raise self._fault("it is cut short")
        self._at += count
        return data

    def _extended(self, head: bytes) -> bytes:
        size = parse_number(head[124:136])
        if not 0 <= size <= MAX_EXTENDED:
            raise self._fault(f"an extended header of {size} bytes")
        data = self._read(size)
        self._at += -size % BLOCK
        return data

    def _fault(self, reason: str) -> Malformed:
        return Malformed("archive", f"{reason}, at byte {self._at}")

    def check_end(self) -> None:
        """Refuse what lies behind the end: nobody would see it.

        Raises:
            Malformed: There is something.
        """
        self._file.seek(self._at)
        while data := self._file.read(1 << 20):
            if any(data):
                raise self._fault("something lies behind its end")

    def _member(
        self, head: bytes, records: _Records, longer: Mapping[bytes, bytes]
    ) -> Member:
        extra = {**self._defaults, **dict(records)}
        flag = _SAME.get(head[156:157], head[156:157])
        name = extra.get(b"path", longer.get(b"L", _name(head)))
        if flag == b"0" and name.endswith(b"/"):
            flag = b"5"  # as it was before there was a flag for directories
        try:
            kind = Type(flag)
        except ValueError:
            raise self._fault(f"a member of the unknown kind {flag!r}") from None
        packed = _number(extra, b"size", head[124:136])
        size, parts = self._content(kind, packed, head, records)
        return Member(
            name=extra.get(b"GNU.sparse.name", name),
            type=kind,
            mode=parse_number(head[100:108]) & 0o7777,
            uid=_number(extra, b"uid", head[108:116]),
            gid=_number(extra, b"gid", head[116:124]),
            mtime_ns=_moment(extra.get(b"mtime"), head[136:148]),
            target=extra.get(b"linkpath", longer.get(b"K", _field(head[157:257]))),
            device=(parse_number(head[329:337]), parse_number(head[337:345])),
            xattrs=dict(_xattrs(extra)),
            size=size,
            parts=parts,
        )

    def _content(
        self, kind: Type, packed: int, head: bytes, records: _Records
    ) -> tuple[int, tuple[Stretch, ...]]:
        """Step over a member's content and say where it is.

        Args:
            kind: What the member is; only files have a content.
            packed: How long it is in the archive.
            head: The member's header.
            records: Its extended header.

        Returns:
            The file's length, and what of it is not a hole.
        """
        if packed < 0:
            raise self._fault("a content of less than nothing")
        if kind is not Type.FILE:
            return 0, ()
        begin = self._at
        sparse = _Sparse(records)
        if head[156:157] == b"S":
            begin += self._old_map(head, sparse)
        elif sparse.is_inline:
            begin += self._inline_map(packed, sparse)
            packed -= begin - self._at
        end = self._at = begin + packed
        self._at += -packed % BLOCK
        if sparse.size is None:
            return packed, (Stretch(0, packed, begin),) if packed else ()
        parts = tuple(sparse.lay_out(begin))
        if parts and parts[-1].place + parts[-1].length > end:
            raise self._fault("a sparse file is longer than its content")
        return sparse.size, parts

    def _old_map(self, head: bytes, sparse: "_Sparse") -> int:
        """Read the map of a sparse file in GNU's old format; return its length."""
        start = self._at
        sparse.size = parse_number(head[483:495])
        sparse.add_fields(head[386:482])
        more = head[482]
        while more:
            block = self._read(BLOCK)
            sparse.add_fields(block[:504])
            more = block[504]
        length, self._at = self._at - start, start
        return length

    def _inline_map(self, packed: int, sparse: "_Sparse") -> int:
        """Read the map that stands before the content; return its length."""
        start = self._at
        rest = self._read(BLOCK)
        first, _, rest = rest.partition(b"\n")
        for _ in range(2 * _decimal(first)):
            if b"\n" not in rest:
                rest += self._read(BLOCK)
            number, _, rest = rest.partition(b"\n")
            sparse.add(_decimal(number))
        length, self._at = self._at - start, start
        if length > packed:
            raise self._fault("the map of a sparse file is longer than the file")
        return length


class _Sparse:
    """The map of a sparse file: where what is no hole begins, and how long it is.

    Args:
        records: The extended header, which holds the map, or says where it is.

    Attributes:
        size: The file's length; None: it is not sparse.
        is_inline: Whether the map stands before the content.
    """

    def __init__(self, records: _Records) -> None:
        facts = dict(records)
        told = facts.get(b"GNU.sparse.realsize", facts.get(b"GNU.sparse.size"))
        self.size = None if told is None else _decimal(told)
        self.is_inline = facts.get(b"GNU.sparse.major") == b"1"
        self._numbers: list[int] = []
        if b"GNU.sparse.map" in facts:
            for number in filter(None, facts[b"GNU.sparse.map"].split(b",")):
                self.add(_decimal(number))
        for key, value in records:
            if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
                self.add(_decimal(value))

    def add(self, number: int) -> None:
        """Add an offset, or the length that belongs to the one before."""
        if len(self._numbers) >= 2 * _MAX_HOLES:
            raise Malformed("archive", "a sparse file of too many parts")
        self._numbers.append(number)

    def add_fields(self, fields: bytes) -> None:
        """Add pairs of twelve bytes each, as far as there are any."""
        for offset, length in struct.iter_unpack("12s12s", fields):
            if not offset[0]:
                return
            self.add(parse_number(offset))
            self.add(parse_number(length))

    def lay_out(self, place: int) -> Iterator[Stretch]:
        """Yield the parts.

        Args:
            place: Where the content begins in the archive.
        """
        end, size = 0, self.size or 0
        pairs = zip(self._numbers[::2], self._numbers[1::2], strict=True)
        for start, length in pairs:
            if start < end or length < 0 or start + length > size:
                raise Malformed("archive", "the map of a sparse file is wrong")
            end = start + length
            if length:
                yield Stretch(start, length, place)
            place += length


# --- fields -----------------------------------------------------------------------


def _field(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _name(head: bytes) -> bytes:
    """Return the name in a header; the prefix is in POSIX archives only."""
    name, prefix = _field(head[:100]), _field(head[345:500])
    is_posix = head[257:263] == b"ustar\0"
    return prefix + b"/" + name if is_posix and prefix else name


def parse_number(raw: bytes) -> int:
    """Read a numeric field: octal, or GNU's binary with the first bit set.

    Raises:
        Malformed: It is neither.
    """
    if raw[0] in {0x80, 0xFF}:
        bits = int.from_bytes(raw[1:], "big")
        found = bits - (1 << 8 * (len(raw) - 1)) if raw[0] == 0xFF else bits
    else:
        found = _octal(raw)
    if abs(found) > MAX_INT:
        raise Malformed("archive", "a number is too large")
    return found


def _octal(raw: bytes) -> int:
    text = raw.partition(b"\0")[0].strip(b" ")
    if text.strip(b"01234567"):
        raise Malformed("archive", f"{raw!r} is no number")
    return int(text or b"0", 8)


def _decimal(raw: bytes) -> int:
    if not _NUMBER.fullmatch(raw):
        raise Malformed("archive", f"{raw[:20]!r} is no number")
    return int(raw)


def _number(extra: Mapping[bytes, bytes], key: bytes, field: bytes) -> int:
    return _decimal(extra[key]) if key in extra else parse_number(field)


def _moment(text: bytes | None, field: bytes) -> int:
    """Return a time in nanoseconds, of seconds with as many digits as there are."""
    if text is None:
        return parse_number(field) * _NANO
    found = _SECONDS.fullmatch(text)
    if found is None:
        raise Malformed("archive", f"{text[:40]!r} is no time")
    sign, seconds, fraction = found.groups()
    nanoseconds = int(seconds) * _NANO + int(((fraction or b"")[:9]).ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds


def parse_records(data: bytes) -> _Records:
    r"""Read an extended header: ``LENGTH KEY=VALUE\n``, the length of it all.

    Raises:
        Malformed: It is none.
    """
    found: _Records = []
    place = 0
    while place < len(data) and data[place]:
        record = _RECORD.match(data, place, place + 4096)
        end = place + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(data):
            raise Malformed("archive", "an extended header is damaged")
        if data[end - 1 : end] != b"\n":
            raise Malformed("archive", "an extended header is damaged")
        found.append((record[2], data[record.end() : end - 1]))
        place = end
    return found


def _xattrs(extra: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    for key, value in extra.items():
        if key.startswith(_XATTR64):
            name = unquote_to_bytes(key.removeprefix(_XATTR64))
            yield name, _unpacked(value)
    for key, value in extra.items():
        if key.startswith(_XATTR):
            name = key.removeprefix(_XATTR).replace(b"%3D", b"=")
            yield name.replace(b"%25", b"%"), value  # GNU tar's spelling of the two
        elif key in _ACLS:
            yield _ACLS[key], parse_acl(value)


def _unpacked(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise Malformed("archive", "an attribute is not in base64") from None


def parse_acl(text: bytes) -> bytes:
    """Return an access control list as the kernel keeps it in an attribute.

    That is the number 2, and for each line its kind, its rights and whom it is for,
    little-endian and in this order (linux/posix_acl_xattr.h).

    Args:
        text: Its text, ``user::rwx,user:1000:r-x,...``, see acl(5).

    Raises:
        Malformed: It is none, or names somebody instead of telling a number.
    """
    found = []
    for line in re.split(rb"[,\n]", text.strip()):
        match = _ACL_LINE.fullmatch(line.strip())
        kind = _ACL_TAGS.get((match[1], not match[2])) if match else None
        if match is None or kind is None:
            reason = f"{line[:60]!r} names no number: pack with --numeric-owner"
            raise Malformed("access control list", reason)
        mode = sum(4 >> b"rwx".index(right) for right in match[3].replace(b"-", b""))
        found.append((kind, int(match[4] or match[2] or _NOBODY), mode))
    packed = [struct.pack("<HHI", kind, mode, who) for kind, who, mode in sorted(found)]
    return struct.pack("<I", 2) + b"".join(packed)
