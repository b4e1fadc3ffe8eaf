"""The nonce of a query whose answer goes through other hands."""

import pytest

from olpc_update_query.trust.nonce import SALT, SEED, derive_nonce

ZEROS = bytes(SEED), bytes(SALT)


def test_a_nonce_is_128_bits_in_decimal() -> None:
    """The figure is from `printf ... | sha256sum`, not from this program."""
    assert derive_nonce(*ZEROS) == "70336774530787166417163911836947164030"
    assert int(derive_nonce(*ZEROS)) < 2**128


def test_it_depends_on_both() -> None:
    seed, salt = b"\1" * SEED, b"\1" * SALT
    found = {derive_nonce(a, b) for a in (ZEROS[0], seed) for b in (ZEROS[1], salt)}
    assert len(found) == 4


@pytest.mark.parametrize(("seed", "salt"), [(31, 16), (33, 16), (32, 15), (32, 0)])
def test_no_byte_can_move_from_one_to_the_other(seed: int, salt: int) -> None:
    with pytest.raises(ValueError, match="wrong length"):
        derive_nonce(bytes(seed), bytes(salt))
