import os
from pathlib import Path

import pytest

from olpc_update_query.errors import DiskFailed
from olpc_update_query.model.entry import Entry, Kind, parse_path
from olpc_update_query.perform_update.dress import dress, make_special


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """Return an entry from after 2038, on a system that has no time for it."""

    def refuse(*_: object, **__: object) -> None:
        raise OverflowError("timestamp out of range for platform time_t")

    monkeypatch.setattr(os, "utime", refuse)
    owner = os.getuid(), os.getgid()
    return Entry(parse_path(b"late"), Kind.FIFO, 0o600, *owner, (1 << 33) * 10**9)


def test_a_time_beyond_the_system_is_one_plain_error(
    tmp_path: Path, entry: Entry
) -> None:
    with open(tmp_path / "file", "wb") as file, pytest.raises(DiskFailed) as caught:
        dress(file.fileno(), entry)
    assert str(caught.value).startswith("late: its time")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(DiskFailed):
            make_special(entry, b"late", directory)
    finally:
        os.close(directory)
