"""A poll by two units: what each does, and what a hostile asker can do (nothing)."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.report import Result
from olpc_update_query.run.hand_over import HandOver
from olpc_update_query.run.machine import is_separate
from olpc_update_query.run.poll import Wish
from olpc_update_query.run.two_units import AskerHalf, InstallerHalf
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.privilege import run_as
from olpc_update_query.system.work import ASKER_USERS
from tests.cli.school import School
from tests.laptop import boots
from tests.run.polled import NOW, Laptop
from tests.simulator import (
    DAY,
    FakeClock,
    Listener,
    ServerSimulator,
    lease,
    prepare_laptop,
)
from tests.trees import difference, snapshot

PLACE = "run/olpc-update-query"


class Units:
    """Both halves of a poll on one laptop."""

    def __init__(self, laptop: Laptop) -> None:
        self.laptop = laptop
        self.place = laptop.root / PLACE
        self.box = self.place / "asker"

    def ask(self) -> tuple[int, Listener]:
        listener = Listener()
        wish = Wish(now=True)
        return AskerHalf(self.laptop.machine(), listener, wish).run(), listener

    def install(self) -> tuple[int, Listener]:
        listener = Listener()
        return InstallerHalf(self.laptop.machine(), listener).run(), listener

    def seed(self) -> bytes:
        return (self.place / "seed").read_bytes()


@pytest.fixture
def units(laptop: Laptop) -> Units:
    found = Units(laptop)
    assert found.install()[0] == 0
    return found


@pytest.fixture
def school_units(private: Path, server: ServerSimulator) -> Units:
    school = School(private, server)
    server.update = school.order()
    found = Units(Laptop(school.root, FakeClock(NOW)))
    found.install()
    return found


# --- what they do --------------------------------------------------------------------


def test_without_anything_handed_over_it_says_nothing(units: Units) -> None:
    code, heard = units.install()
    assert (code, heard.outcomes, heard.events) == (0, [], [])
    assert len(units.seed()) == 32


def test_the_asker_installs_nothing(units: Units, server: ServerSimulator) -> None:
    server.lease = lease(NOW + DAY)
    code, heard = units.ask()
    assert (code, heard.outcome.result) == (0, Result.HANDED_OVER)
    assert units.laptop.lease() is None
    assert units.laptop.history() == [], "the word is the installer's"
    code, heard = units.install()
    assert (code, heard.outcome.result) == (0, Result.NOTHING)
    assert units.laptop.lease() == server.lease
    assert os.listdir(units.box) == []
    assert units.laptop.wait() > 0


def test_stolen(units: Units, server: ServerSimulator) -> None:
    server.lease = lease(NOW + DAY)
    units.ask()
    units.install()
    server.stolen, server.lease = True, None
    assert units.ask()[0] == 0
    assert units.install()[1].outcome.result is Result.STOLEN
    assert units.laptop.lease() is None
    assert units.laptop.is_marked()


def test_a_build_from_the_order_to_the_boot_link(
    school_units: Units, server: ServerSimulator
) -> None:
    server.lease = lease(NOW + DAY)
    root = school_units.laptop.root
    before = snapshot(root / "versions/pristine/760")
    code, heard = school_units.ask()
    assert code == 0
    assert heard.outcome.facts["received"], "it fetched, without waiting"
    assert sorted(os.listdir(school_units.box)) == ["answer", "fetched"]
    assert boots(root) == "760"
    code, heard = school_units.install()
    assert code == 0
    results = [outcome.result for outcome in heard.outcomes]
    assert results == [Result.WAITING, Result.INSTALLED]
    assert heard.outcome.facts["received"]
    assert boots(root) == "762"
    assert school_units.laptop.lease() == server.lease
    assert not difference(before, snapshot(root / "versions/pristine/760"))
    assert sorted(os.listdir(school_units.place)) == ["asker", "fresh", "seed"]


def test_the_installer_may_come_in_between(school_units: Units) -> None:
    """It starts as soon as the answer is there, while the asker still fetches."""
    _, octets = school_units.ask(), (school_units.box / "fetched").read_bytes()
    (school_units.box / "fetched").unlink()
    assert school_units.install()[1].outcome.result is Result.WAITING
    assert boots(school_units.laptop.root) == "760"
    (school_units.box / "fetched").write_bytes(octets)
    assert school_units.install()[1].outcome.result is Result.INSTALLED
    assert boots(school_units.laptop.root) == "762"


def test_contents_that_prove_damaged_are_asked_for_again(school_units: Units) -> None:
    """The due time is how the installer says so: the next tick asks and fetches."""
    root = school_units.laptop.root
    school_units.ask()
    for path in (school_units.laptop.machine().work.asker / "downloads").rglob("*"):
        if path.is_file() and path.name != "contents":
            path.write_bytes(b"\0" * path.stat().st_size)
    code, heard = school_units.install()
    assert code in {errors.Incomplete.exit_code, errors.UntrustedContents.exit_code}
    assert heard.outcome.result is Result.FAILED
    assert boots(root) == "760"
    assert school_units.laptop.wait() < DAY / 2
    for _ in range(3):
        school_units.ask()
        if school_units.install()[0] == 0:
            break
    assert boots(root) == "762"


def test_a_build_that_nobody_has(school_units: Units, server: ServerSimulator) -> None:
    """The lease is installed all the same, and the server hears of the failure."""
    shutil.rmtree(server.site.root / "builds/762")
    server.lease = lease(NOW + DAY)
    code, heard = school_units.ask()
    assert code == errors.BuildNotFound.exit_code
    assert heard.outcome.facts["build"] == "762"
    assert school_units.laptop.wait() < DAY / 2
    assert school_units.install()[1].outcome.result is Result.WAITING
    assert school_units.laptop.lease() == server.lease


def test_one_asker_at_a_time(units: Units, server: ServerSimulator) -> None:
    lock = units.laptop.machine().work.asker_lock
    with hold_lock(lock, "another asker"):
        assert units.ask()[0] == errors.Busy.exit_code
        assert units.laptop.ask()[0] == errors.Busy.exit_code, "by hand neither"
    assert server.asked == 0


def test_without_the_installer_nobody_is_asked(
    laptop: Laptop, server: ServerSimulator
) -> None:
    code, heard = Units(laptop).ask()
    assert code == errors.NotPrepared.exit_code
    assert "olpc-update-installer" in heard.outcome.hint
    assert server.asked == 0


@pytest.mark.root
def test_the_asker_needs_no_privilege(tmp_path: Path, server: ServerSimulator) -> None:
    root = prepare_laptop(tmp_path / "laptop", server.url)
    units = Units(Laptop(root, FakeClock(NOW)))
    server.lease = lease(NOW + DAY)
    units.install()
    assert is_separate(units.laptop.machine())
    assert run_as(ASKER_USERS, lambda: units.ask()[0]) == 0
    assert (units.box / "answer").stat().st_uid != 0
    assert units.install()[0] == 0
    assert units.laptop.lease() == server.lease


# --- what a hostile asker hands over -------------------------------------------------


@pytest.fixture
def answer(units: Units, server: ServerSimulator) -> bytes:
    """What an honest asker hands over, with a lease; it is taken away again."""
    server.lease = lease(NOW + DAY)
    units.ask()
    path = units.box / "answer"
    found = path.read_bytes()
    path.unlink()
    return found


def test_an_answer_counts_once(
    units: Units, server: ServerSimulator, answer: bytes
) -> None:
    (units.box / "answer").write_bytes(answer)
    assert units.install()[0] == 0
    server.lease = lease(NOW + 2 * DAY)
    units.ask()
    assert units.install()[0] == 0
    (units.box / "answer").write_bytes(answer)
    code, heard = units.install()
    assert code == errors.UntrustedAnswer.exit_code
    assert "nonce" in heard.outcome.text
    assert units.laptop.lease() == server.lease


def test_an_older_answer_does_not_count_after_a_newer_one(
    units: Units, server: ServerSimulator, answer: bytes
) -> None:
    server.lease = lease(NOW + 2 * DAY)
    units.ask()
    units.install()
    (units.box / "answer").write_bytes(answer)
    assert units.install()[0] == errors.UntrustedAnswer.exit_code
    assert units.laptop.lease() == server.lease


def test_no_answer_counts_after_a_run_by_hand(
    units: Units, server: ServerSimulator, answer: bytes
) -> None:
    server.lease = lease(NOW + 2 * DAY)
    assert units.laptop.ask()[0] == 0
    (units.box / "answer").write_bytes(answer)
    assert units.install()[0] == errors.UntrustedAnswer.exit_code
    assert units.laptop.lease() == server.lease


def test_no_answer_counts_after_a_restart(units: Units, answer: bytes) -> None:
    shutil.rmtree(units.place)
    units.install()
    (units.box / "answer").write_bytes(answer)
    assert units.install()[0] == errors.UntrustedAnswer.exit_code
    assert units.laptop.lease() is None


@pytest.mark.parametrize("cut", [0, 5, 16, 17, -1])
def test_half_an_answer(units: Units, answer: bytes, cut: int) -> None:
    (units.box / "answer").write_bytes(answer[:cut])
    assert units.install()[0] in {
        errors.BadHandOver.exit_code,
        errors.Malformed.exit_code,
    }
    assert units.laptop.lease() is None


def victim_of(path: Path) -> Path:
    victim = path.parents[3] / "victim"
    victim.write_bytes(b"root's own")
    return victim


def plant_link(path: Path) -> None:
    path.symlink_to(victim_of(path))


def plant_hard_link(path: Path) -> None:
    path.hardlink_to(victim_of(path))


def plant_directory(path: Path) -> None:
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/link").symlink_to(victim_of(path))
    (path / "deep/er/file").write_bytes(b"x")


def plant_socket(path: Path) -> None:
    place = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(f"/proc/self/fd/{place}/{path.name}")  # short enough a name
    os.close(place)


def plant_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def plant_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


PLANTS = [
    plant_link,
    plant_hard_link,
    plant_directory,
    plant_socket,
    plant_huge_file,
    plant_link_to_a_device,
    os.mkfifo,
]


@pytest.mark.parametrize("name", ["answer", "fetched"])
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_planted_things(units: Units, plant: Callable[[Path], None], name: str) -> None:
    plant(units.box / name)
    before = units.seed()
    code, heard = units.install()
    # The victim of a hard link is a short file: as an answer it is merely malformed.
    assert code in {errors.BadHandOver.exit_code, errors.Malformed.exit_code}
    assert heard.outcome.result is Result.FAILED
    assert os.listdir(units.box) == [], "else the path unit starts it for ever"
    assert units.seed() == before
    assert units.laptop.lease() is None
    victim = units.place.parents[1] / "victim"
    assert not victim.exists() or victim.read_bytes() == b"root's own"
    assert units.install()[0] == 0, "and the next run is none the worse"


@pytest.fixture
def swapper(units: Units, answer: bytes) -> Iterator[None]:
    """Change the file between the installer's look at it and the end of its read."""
    path, read = units.box / "answer", os.read
    changed: list[bool] = []
    path.write_bytes(answer)

    def read_and_swap(descriptor: int, size: int) -> bytes:
        piece = read(descriptor, min(size, 64))
        if not changed and piece[:16] == answer[:16]:
            changed.append(True)
            with path.open("r+b") as file:
                file.seek(64)
                file.write(b"X" * 500)
                file.truncate(1 << 30)
        return piece

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("olpc_update_query.system.files.os.read", read_and_swap)
        yield
    assert changed


@pytest.mark.usefixtures("swapper")
def test_a_file_swapped_in_the_middle(units: Units) -> None:
    assert units.install()[0] == errors.BadHandOver.exit_code
    assert units.laptop.lease() is None


def test_a_word_that_nobody_waits_for(units: Units) -> None:
    (units.box / "fetched").write_bytes(b"\xff" * 32)
    code, heard = units.install()
    assert (code, heard.outcome.result) == (0, Result.NOTHING)
    assert "nobody ordered" in heard.outcome.text


def test_it_arrived_although_nothing_did(school_units: Units) -> None:
    """The installer believes no word about contents: it looks for itself."""
    school_units.ask()
    shutil.rmtree(school_units.laptop.machine().work.asker / "downloads")
    code, heard = school_units.install()
    assert code == errors.Incomplete.exit_code
    assert heard.outcome.result is Result.FAILED
    assert boots(school_units.laptop.root) == "760"


def test_an_order_is_gone_with_the_next_answer(
    school_units: Units, server: ServerSimulator
) -> None:
    school_units.ask()
    (school_units.box / "fetched").unlink()
    school_units.install()
    server.update = None
    school_units.ask()
    (school_units.box / "fetched").write_bytes(bytes(32))
    results = [outcome.result for outcome in school_units.install()[1].outcomes]
    assert results == [Result.NOTHING, Result.NOTHING]
    assert boots(school_units.laptop.root) == "760"


# --- what becomes of it when nobody takes it -----------------------------------------


@pytest.mark.parametrize(
    ("interval", "days", "counts"),
    [
        pytest.param(None, 1.9, True, id="two days later"),
        pytest.param(None, 2.1, False, id="two days and more"),
        pytest.param(20 * DAY, 39, True, id="asked once in twenty days"),
        pytest.param(20 * DAY, 41, False, id="twice as late as that"),
    ],
)
def test_how_long_an_answer_counts(
    units: Units,
    server: ServerSimulator,
    interval: int | None,
    days: float,
    counts: bool,
) -> None:
    """From the last answer on, for nobody knows when this one came."""
    server.interval = interval
    units.ask()
    units.install()
    seed = units.seed()
    server.lease = lease(NOW + 90 * DAY)
    units.ask()
    units.laptop.clock.time += days * DAY
    code, _ = units.install()
    assert code == (0 if counts else errors.StaleHandOver.exit_code)
    assert (units.laptop.lease() is not None) is counts
    assert units.seed() != seed, "so none counts for ever"
    assert counts or units.laptop.wait() <= 600, "the asker asks again"
    assert os.listdir(units.box) == []
    units.ask()
    assert units.install()[0] == 0
    assert units.laptop.lease() is not None


def test_an_order_that_took_days_to_fetch_is_asked_for_again(
    school_units: Units,
) -> None:
    school_units.ask()
    octets = (school_units.box / "fetched").read_bytes()
    (school_units.box / "fetched").unlink()
    school_units.install()
    school_units.laptop.clock.time += 2.1 * DAY
    (school_units.box / "fetched").write_bytes(octets)
    assert school_units.install()[0] == errors.StaleHandOver.exit_code
    assert boots(school_units.laptop.root) == "760"
    assert school_units.laptop.wait() <= 600
    school_units.ask()
    assert school_units.install()[1].outcome.result is Result.INSTALLED


@pytest.mark.parametrize(
    "content",
    [None, b"", b"soon\n", b"1" * 99],
    ids=["missing", "empty", "a word", "endless"],
)
def test_without_a_time_nothing_counts(units: Units, content: bytes | None) -> None:
    units.ask()
    (units.place / "fresh").unlink()
    if content is not None:
        (units.place / "fresh").write_bytes(content)
    assert units.install()[0] == errors.StaleHandOver.exit_code
    units.ask()
    assert units.install()[0] == 0


def test_what_only_root_can_read_is_told_to_the_asker(laptop: Laptop) -> None:
    mfg, dmi = laptop.root / "ofw", laptop.root / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    for tag, name in (("SN", "product_serial"), ("U#", "product_uuid")):
        (dmi / name).write_text((mfg / "mfg-data" / tag).read_text())
    shutil.rmtree(mfg)
    HandOver(laptop.root, laptop.clock).prepare()
    Units(laptop).install()
    known = laptop.machine().identity
    shutil.rmtree(dmi)
    found = laptop.machine().identity
    assert (found.serial, found.uuid) == (known.serial, known.uuid)
    assert (laptop.root / PLACE / "identity").stat().st_mode & 0o007 == 0
