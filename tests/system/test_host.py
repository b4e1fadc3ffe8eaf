"""Who this laptop is, and what time it believes it is."""

import os
import time
from pathlib import Path

import pytest

from olpc_update_query.errors import Malformed, NoIdentity
from olpc_update_query.server.laptops import normal_serial
from olpc_update_query.system import host

UUID = "6B0A9D1E-52A1-4E4C-9F0E-1D2C3B4A5F60"
OLD, NEW = "ofw/mfg-data", "proc/device-tree/mfg-data"


def plant(root: Path, where: str, **tags: bytes) -> None:
    (root / where).mkdir(parents=True, exist_ok=True)
    for name, value in tags.items():
        (root / where / name.replace("U_", "U#")).write_bytes(value)


@pytest.mark.parametrize(
    ("serial", "uuid"),
    [
        pytest.param(b"SHC00000001\0", UUID.encode() + b"\0", id="new kernels"),
        pytest.param(b"SHC00000001\n\0", UUID.encode() + b"\n", id="with newlines"),
        pytest.param(b"shc00000001", UUID.encode(), id="lower case"),
    ],
)
@pytest.mark.parametrize("where", [OLD, NEW])
def test_manufacturing_data(
    tmp_path: Path, where: str, serial: bytes, uuid: bytes
) -> None:
    plant(tmp_path, where, SN=serial, U_=uuid)
    found = host.identity(tmp_path, ("OTHER1", UUID))
    assert found == ("SHC00000001", UUID, str(tmp_path / where))


def test_uuid_is_taken_as_it_is(tmp_path: Path) -> None:
    plant(tmp_path, OLD, SN=b"SHC1", U_=UUID.lower().encode())
    assert host.identity(tmp_path).uuid == UUID.lower()


def test_dmi(tmp_path: Path) -> None:
    plant(tmp_path, host.DMI, product_serial=b"PF-1a2b\n", product_uuid=UUID.encode())
    assert host.identity(tmp_path).serial == "PF-1a2b"


def test_dmi_comes_after_manufacturing_data(tmp_path: Path) -> None:
    plant(tmp_path, host.DMI, product_serial=b"PF1a2b", product_uuid=UUID.encode())
    plant(tmp_path, NEW, SN=b"SHC1", U_=UUID.encode())
    assert host.identity(tmp_path).serial == "SHC1"


PLACEHOLDERS = (
    "To be filled by O.E.M.",
    "To Be Filled By O.E.M. ",
    "Default string",
    "None",
    "0",
    "00000000",
    "0000-0000",
    "xxxxxxxx",
    "System Serial Number",
    "Not Specified",
    "Not Present",
    "Default",
    "INVALID",
    "0123456789ABCDEF",
    "123456789",
    "SHF00000000",
    "",
    "........",
)


@pytest.mark.parametrize("serial", PLACEHOLDERS)
def test_factory_placeholders_are_no_identity(tmp_path: Path, serial: str) -> None:
    plant(
        tmp_path,
        host.DMI,
        product_serial=serial.encode() + b"\n",
        product_uuid=UUID.encode() + b"\n",
    )
    with pytest.raises(NoIdentity):
        host.identity(tmp_path)
    found = host.identity(tmp_path, ("LAB7", UUID))
    assert found == ("LAB7", UUID, "configuration")
    with pytest.raises(NoIdentity, match="configuration: "):
        host.identity(tmp_path, (serial, UUID))


@pytest.mark.parametrize(
    "uuid",
    [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "Not Settable",
        UUID[:-1],
        UUID.replace("-", ""),
    ],
)
def test_uuid_must_be_one(tmp_path: Path, uuid: str) -> None:
    plant(tmp_path, host.DMI, product_serial=b"PF1", product_uuid=uuid.encode())
    with pytest.raises(NoIdentity, match=r"UUID refused|never filled in"):
        host.identity(tmp_path)


@pytest.mark.parametrize(
    "serial", ["a b", "a:b", "ä1", "-ab", "a/b", "../b1", "A" * 65, "a\tb1", "a&b=1"]
)
def test_what_the_server_refuses_is_no_serial_number(
    tmp_path: Path, serial: str
) -> None:
    with pytest.raises(Malformed):
        normal_serial(serial)
    plant(tmp_path, NEW, SN=serial.encode(), U_=UUID.encode())
    with pytest.raises(NoIdentity, match="serial number refused"):
        host.identity(tmp_path)
    with pytest.raises(NoIdentity, match="serial number refused"):
        host.identity(tmp_path, (serial, UUID))


def test_both_are_from_the_same_place(tmp_path: Path) -> None:
    plant(tmp_path, OLD, SN=b"SHC1")
    plant(tmp_path, host.DMI, product_serial=b"PF1", product_uuid=UUID.encode())
    assert host.identity(tmp_path).serial == "PF1"


def test_no_identity_names_every_place(tmp_path: Path) -> None:
    with pytest.raises(NoIdentity) as caught:
        host.identity(tmp_path)
    for place in (*host.MFG_DATA, host.DMI):
        assert place in str(caught.value)
    assert "[identity]" in caught.value.hint()


def test_boot_id(tmp_path: Path) -> None:
    assert host.boot_id(tmp_path) == ""
    assert len(host.boot_id(Path("/"))) == 36


def test_clock() -> None:
    clock = host.SystemClock()
    assert abs(clock.now() - time.time()) < 2
    assert isinstance(clock.now(), int)
    before = clock.boottime()
    clock.sleep(0.01)
    clock.sleep(-5)
    assert 0.01 <= clock.boottime() - before < 5
    assert before >= time.monotonic() - 5


def test_nonces_are_128_random_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({host.draw_nonce() for _ in range(100)}) == 100
    asked: list[int] = []

    def most(count: int) -> bytes:
        asked.append(count)
        return b"\xff" * count

    monkeypatch.setattr(os, "urandom", most)
    assert host.draw_nonce() == str(2**128 - 1)
    assert asked == [16]
    assert 0.99 < host.draw_fraction() < 1
