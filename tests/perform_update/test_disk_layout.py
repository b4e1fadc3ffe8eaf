"""What the documentation shows is what laptops look like."""

import re
from pathlib import Path

import pytest

from tests.laptop import listing
from tests.perform_update.builds import Build
from tests.perform_update.conftest import Laptop

DOCUMENT = Path(__file__).parents[2] / "docs/disk-layout.md"


def shown(name: str) -> str:
    found = re.search(rf"```listing {name}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_a_fresh_laptop_is_as_shown(laptop: Laptop, partitioned: bool) -> None:
    name = "partitioned" if partitioned else "unpartitioned"
    assert listing(laptop.root) == shown(name)


def test_an_updated_laptop_has_two_builds_and_nothing_else(
    laptop: Laptop, new: Build, partitioned: bool
) -> None:
    name = "partitioned" if partitioned else "unpartitioned"
    laptop.fetch_and_install(new)
    before, after = (
        set(text.splitlines()) for text in (shown(name), listing(laptop.root))
    )
    added = {
        line for line in after - before if not line.startswith("versions/updates/")
    }
    expected = {"contents/762", "pristine/762/", "run/762/", "sticky/760", "trial"}
    expected = {f"versions/{line}" for line in expected}
    if partitioned:
        expected |= {
            "bootpart/boot -> boot-versions/762",
            "bootpart/boot-versions/762/",
            "bootpart/boot-versions/762/alt -> ../760",
            "bootpart/boot-versions/762/vmlinuz",
        }
    else:
        expected |= {
            "versions/boot -> configs/762",
            "versions/configs/762/",
            "versions/configs/762/alt -> /versions/pristine/760",
            "versions/configs/762/current -> /versions/pristine/762",
        }
    assert added == expected
    gone = {"bootpart/boot -> boot-versions/760"}
    if not partitioned:
        gone = {
            "versions/boot -> configs/760",
            "versions/configs/760/",
            "versions/configs/760/current -> /versions/pristine/760",
        }
    assert before - after == gone


@pytest.mark.parametrize(
    "phrase",
    [".olpc-update.", "installer/wanted", "installer/store/", "/versions/sticky/ID"],
)
def test_the_names_are_mentioned(phrase: str) -> None:
    assert phrase in DOCUMENT.read_text()
