"""What the tests of packs share."""

from pathlib import Path

import pytest

from olpc_update_query.model.entry import MAX_INT
from olpc_update_query.model.pack import (
    MAX_LINE,
    Frame,
    Segment,
    unpack_segment,
)
from olpc_update_query.model.wire import Sha256

SAMPLES = Path(__file__).parents[2] / "docs/samples/builds"
ONE, TWO, THREE = ((chr(97 + n) + "1") * 32 for n in range(3))
OLD, NEW = Sha256(ONE), Sha256(TWO)


def unpacked(packed: bytes, base: bytes, size: int) -> bytes:
    return b"".join(unpack_segment(packed, base, size))


def whole(digest: str, packed: int, size: int, offset: int) -> Frame:
    segment = Segment(0, 0, packed, size)
    return Frame(bytes.fromhex(digest), size, None, offset, (segment,))


LINES = [b'["%s",9,0]\n' % ONE.encode(), b'["%s",7,300]\n' % THREE.encode()]

REFUSED_FRAMES = [
    pytest.param(LINES[0][:-1], id="no newline"),
    pytest.param(b" " + LINES[0], id="space"),
    pytest.param(LINES[0].replace(b",9", b",09"), id="leading zero"),
    pytest.param(LINES[0].replace(b",9", b",-9"), id="negative"),
    pytest.param(LINES[0].replace(b",9", b",true"), id="bool"),
    pytest.param(LINES[0].replace(b",9", b",9.0"), id="float"),
    pytest.param(LINES[0].replace(b",9", b",%d" % (MAX_INT + 1)), id="huge"),
    pytest.param(LINES[0].replace(b",9", b"," + b"9" * 5000), id="very huge"),
    pytest.param(LINES[0].replace(b"a1", b"A1"), id="upper case"),
    pytest.param(LINES[0].replace(b"a1", b"g1"), id="no hex"),
    pytest.param(LINES[0].replace(b"a1a1", b"a1"), id="short digest"),
    pytest.param(LINES[0].replace(b'"', b""), id="digest of no text"),
    pytest.param(b"[7,9,0]\n", id="digest is a number"),
    pytest.param(b"{}\n", id="object"),
    pytest.param(b"\n", id="empty line"),
    pytest.param(b"[" * 100_000 + b"\n", id="endless nesting"),
    pytest.param(b"\xff\n", id="not UTF-8"),
    pytest.param(b"[" + b" " * MAX_LINE + LINES[0][1:], id="long line"),
]
