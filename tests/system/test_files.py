"""Files replaced whole, locks that name their holder, errors of the disk."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.system import files

# --- replacing -----------------------------------------------------------------


def test_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.replace_file(path, b"one")
    files.replace_file(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.replace_file(tmp_path / "f", b"", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_other_names_of_the_old_file_keep_their_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    os.link(tmp_path / "f", tmp_path / "other")
    files.replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "other").read_bytes() == b"old"


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "f").symlink_to("target")
    files.replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "target").read_bytes() == b"old"
    assert not (tmp_path / "f").is_symlink()


def test_link_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "current"
    for target in ("/versions/pristine/760", "/versions/pristine/762"):
        files.replace_symlink(path, target)
        assert os.readlink(path) == target
    assert os.listdir(tmp_path) == ["current"]


def test_link_to_a_directory_is_replaced_not_entered(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "boot").symlink_to("old")
    files.replace_symlink(tmp_path / "boot", "new")
    assert os.readlink(tmp_path / "boot") == "new"
    assert not os.listdir(tmp_path / "old")


def test_directory_is_not_replaced_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace_symlink(tmp_path / "boot", "new")
    assert os.listdir(tmp_path) == ["boot"]


def _fail(*_args: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("call", ["fsync", "rename", "fchmod"])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(os, call, _fail)
    with pytest.raises(OSError, match="Input/output"):
        files.replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def _trace(tmp_path: Path, code: str, calls: str) -> list[str]:
    """Return the system calls, by name and argument, that ``code`` makes."""
    log = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-y", "-e", f"trace={calls}", "-o", str(log), "--"]  # noqa: RUF005
        + [sys.executable, "-c", code],
        check=True,
    )
    lines = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
    return [line for line in lines if str(tmp_path / "d") in line]


@pytest.mark.needs("strace")
def test_content_is_on_the_disk_before_the_name_is(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    code = (
        "from pathlib import Path; from olpc_update_query.system import files;"
        f"files.replace_file(Path({str(tmp_path / 'd/f')!r}), b'new')"
    )
    seen = _trace(tmp_path, code, "write,fsync,rename")
    assert [line.partition("(")[0] for line in seen] == [
        "write",
        "fsync",
        "rename",
        "fsync",
    ]
    assert f"<{tmp_path / 'd'}>" in seen[3]


def test_leftovers_are_removed(tmp_path: Path) -> None:
    for name in (".f.0123456789ab.new", "f", "f.new", ".keep"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".keep", "f", "f.new"]


def test_file_system_is_synced(tmp_path: Path) -> None:
    files.sync_filesystem(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.sync_filesystem(tmp_path / "absent")


# --- reading -------------------------------------------------------------------


def test_reads_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert files.read_bounded(tmp_path / "f", 5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        files.read_bounded(tmp_path / "f", 4)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda p: p.symlink_to("f"), errno.ELOOP, id="link"),
        pytest.param(os.mkfifo, errno.EINVAL, id="pipe"),
        pytest.param(os.mkdir, errno.EINVAL, id="directory"),
        pytest.param(lambda p: None, errno.ENOENT, id="nothing"),
    ],
)
def test_reads_only_files(
    tmp_path: Path, make: Callable[[Path], None], code: int
) -> None:
    make(tmp_path / "x")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is checked
        files.read_bounded(tmp_path / "x", 100)
    assert caught.value.errno == code


# --- locks ---------------------------------------------------------------------


def test_lock_names_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with files.hold_lock(lock, "olpc-update 762"):
        with pytest.raises(errors.Busy) as caught, files.hold_lock(lock, "other"):
            pytest.fail("held twice")
        assert caught.value.holder == f"process {os.getpid()} (olpc-update 762)"
    with files.hold_lock(lock, "next"):
        assert lock.read_text() == f"process {os.getpid()} (next)\n"


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path\n"
        "from olpc_update_query.system import files\n"
        f"lock = files.hold_lock(Path({str(tmp_path / 'lock')!r}), 'x')\n"
        "lock.__enter__()\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert b"(x)" in (tmp_path / "lock").read_bytes()
    with files.hold_lock(tmp_path / "lock", "y"):
        pass


def test_lock_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to("precious")
    lock = files.hold_lock(tmp_path / "lock", "x")
    with pytest.raises(OSError, match="symbolic link"), lock:
        pytest.fail("locked")
    assert (tmp_path / "precious").read_text() == "precious"


# --- errors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param(errno.ENOSPC, errors.NoSpace, id="full"),
        pytest.param(errno.EDQUOT, errors.NoSpace, id="quota"),
        pytest.param(errno.EACCES, errors.NotPermitted, id="mode"),
        pytest.param(errno.EPERM, errors.NotPermitted, id="owner"),
        pytest.param(errno.EROFS, errors.DiskFailed, id="read-only"),
        pytest.param(errno.EIO, errors.DiskFailed, id="failing"),
        pytest.param(errno.EUCLEAN, errors.DiskFailed, id="damaged"),
    ],
)
def test_disk_errors_are_named(
    tmp_path: Path, code: int, kind: type[errors.UpdateError]
) -> None:
    with pytest.raises(errors.UpdateError) as caught, files.disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    assert type(caught.value) is kind
    assert str(tmp_path) in str(caught.value)


def test_full_disk_tells_what_was_needed(tmp_path: Path) -> None:
    checked = files.disk_errors(tmp_path / "not/there", needed=12345)
    with pytest.raises(errors.NoSpace) as caught, checked:
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.needed == 12345
    assert caught.value.free > 0


@pytest.mark.root
@pytest.mark.needs("mount")
def test_a_disk_without_inodes_says_so(tmp_path: Path) -> None:
    words = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=5", "small", str(tmp_path)]
    subprocess.run(["mount", *words], check=True)
    try:
        for number in range(4):  # and one is the directory
            (tmp_path / f"{number}").touch()
        with (
            pytest.raises(errors.NoSpace) as caught,
            files.disk_errors(tmp_path / "f"),
        ):
            (tmp_path / "f").touch()
        assert caught.value.free > 900_000
        assert "inodes" in str(caught.value)
        assert "bytes" not in str(caught.value)
        (tmp_path / "0").unlink()
        with (
            pytest.raises(errors.NoSpace, match="2,000,000 bytes needed"),
            files.disk_errors(tmp_path / "f", needed=2_000_000),
        ):
            (tmp_path / "f").write_bytes(bytes(2_000_000))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.disk_errors(tmp_path):
        raise KeyError


def test_a_lock_that_cannot_be_named_still_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "pwrite", full)
    path = tmp_path / "lock"
    with (
        files.hold_lock(path, "first"),
        pytest.raises(errors.Busy),
        files.hold_lock(path, "second"),
    ):
        pass


@pytest.mark.root
@pytest.mark.parametrize(("mode", "can_hold"), [(0o600, False), (0o644, True)])
def test_who_cannot_read_a_lock_cannot_hold_it(
    tmp_path: Path, mode: int, can_hold: bool
) -> None:
    """Whoever may read it may keep everybody else out, and for ever."""
    for directory in (tmp_path, tmp_path.parent):
        directory.chmod(0o755)
    path = tmp_path / "lock"
    with files.hold_lock(path, "root", mode=mode):
        pass
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "flock", path, "true"],
        check=False,
        capture_output=True,
    )
    assert (done.returncode == 0) is can_hold


def test_nobody_knows_how_much_was_needed() -> None:
    told = str(errors.NoSpace("/versions", 1, 0))
    assert told == "no space is left on /versions: 0 bytes are free"
