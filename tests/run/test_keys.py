"""Keys that change over the air."""

import errno
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.report import KeysChanged, LeaseKept
from olpc_update_query.system.keyring import load_keys
from olpc_update_query.system.state import StateStore
from olpc_update_query.trust.keys import Role
from tests.keys import signer
from tests.rotations import statement
from tests.run.polled import NOW, Laptop
from tests.simulator import DAY, Mischief, ServerSimulator, lease, work_of

FIRST = statement(1, "oats", add="new", retire="oats")
SECOND = statement(2, "new", add="newer", retire="new")


def names(root: Path, role: Role = Role.OATS) -> set[str]:
    known = {signer(name).public: name for name in ("oats", "lease", "new", "newer")}
    return {known[key.der] for key in load_keys(root) if key.role is role}


def test_a_laptop_that_slept_through_two_rotations(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.keys, server.key = (FIRST, SECOND), "newer"
    code, heard = laptop.ask()
    assert code == 0
    [changed] = heard.heard(KeysChanged)
    assert [one.number for one in changed.statements] == [1, 2]
    assert names(laptop.root) == {"newer"}
    server.keys = ()
    code, heard = laptop.ask()
    assert code == 0
    assert not heard.heard(KeysChanged)
    server.key = "oats"
    assert laptop.ask()[0] == 21, "the retired key signs nothing any more"


def test_the_same_statements_again_change_nothing(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.keys, server.key = (FIRST, SECOND), "newer"
    laptop.ask()
    kept = work_of(laptop.root) / "installer/keys.json"
    before, inode = kept.read_bytes(), kept.stat().st_ino
    code, heard = laptop.ask()
    assert code == 0
    assert not heard.heard(KeysChanged)
    assert (kept.read_bytes(), kept.stat().st_ino) == (before, inode)


def test_an_answer_that_does_not_verify_changes_no_key(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.keys, server.mischief = (FIRST,), Mischief.WRONG_KEY
    assert laptop.ask()[0] == 21
    assert names(laptop.root) == {"oats"}
    assert not (work_of(laptop.root) / "installer/keys.json").exists()


def test_a_dry_run_changes_no_key(laptop: Laptop, server: ServerSimulator) -> None:
    from olpc_update_query.run.poll import Wish

    server.keys, server.key = (FIRST,), "new"
    assert laptop.poll(Wish(dry_run=True))[0] == 0
    assert names(laptop.root) == {"oats"}


def test_a_lease_by_a_key_that_came_with_it(
    laptop: Laptop, server: ServerSimulator
) -> None:
    change = statement(1, "lease", add="new", retire="lease", role=Role.LEASE)
    server.keys, server.lease = (change,), lease(NOW + DAY, key="new")
    code, heard = laptop.ask()
    assert code == 0
    assert heard.heard(LeaseKept)
    assert laptop.lease() == server.lease
    assert names(laptop.root, Role.LEASE) == {"new"}


def test_the_query_tells_which_keys_are_trusted(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.keys, server.key = (FIRST,), "new"
    laptop.ask()
    laptop.ask()
    before, after = (query.keys for query in server.queries)
    rings = [f"{role}-test.public" for role in Role]
    assert before is not None
    assert after is not None
    assert before != after == load_keys(laptop.root).fingerprints()
    assert before.split("-")[1] == after.split("-")[1], rings


def test_a_full_disk_keeps_the_old_keys_and_delays_no_lease(
    laptop: Laptop, server: ServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StateStore.save

    def refuse(store: StateStore, name: str, facts: object) -> None:
        if name == "keys":
            raise errors.NoSpace("/", 1, 0)
        real(store, name, facts)  # type: ignore[arg-type]

    monkeypatch.setattr(StateStore, "save", refuse)
    server.keys, server.key, server.lease = (FIRST,), "new", lease(NOW + DAY)
    assert laptop.ask()[0] == 0
    assert laptop.lease() == server.lease
    assert names(laptop.root) == {"oats"}
    monkeypatch.undo()
    assert laptop.ask()[0] == 0, "the next answer brings them again"
    assert names(laptop.root) == {"new"}


def test_what_is_kept_is_replaced_whole(
    laptop: Laptop, server: ServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power that fails while it is written leaves what was there."""
    from olpc_update_query.system import files

    server.keys, server.key = (FIRST,), "new"
    laptop.ask()
    kept = work_of(laptop.root) / "installer/keys.json"
    before = kept.read_bytes()
    real = files.write_all

    def half(descriptor: int, data: bytes) -> None:
        if b"retired" in data:
            real(descriptor, data[: len(data) // 2])
            raise OSError(errno.EIO, "gone")
        real(descriptor, data)

    monkeypatch.setattr(files, "write_all", half)
    server.keys, server.key = (SECOND,), "newer"
    assert laptop.ask()[0] == 0
    assert kept.read_bytes() == before


def test_damage_lets_the_next_answer_bring_the_statements_again(
    laptop: Laptop, server: ServerSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    server.keys, server.key = (FIRST,), "new"
    laptop.ask()
    kept = work_of(laptop.root) / "installer/keys.json"
    kept.write_text('{"oats":{"number":0}}\n')
    assert names(laptop.root) == {"oats"}
    assert "what statements said about keys is lost" in caplog.text
    assert laptop.ask()[0] == 0
    assert names(laptop.root) == {"new"}


def test_the_configuration_may_want_more_signatures(
    laptop: Laptop, server: ServerSimulator
) -> None:
    with open(laptop.root / "etc/olpc-update-query/config.toml", "a") as file:
        file.write("[keys]\nthreshold = 2\n")
    server.keys = (statement(1, "oats", add="new"),)
    code, heard = laptop.ask()
    assert code == 0
    assert names(laptop.root) == {"oats"}
    assert any("2 trusted keys must sign it, 1 did" in str(one) for one in heard.events)
