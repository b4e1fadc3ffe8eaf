"""Trees to publish, and places to publish them in."""

import shutil
from pathlib import Path

import pytest

from tests.server.published import SAMPLES
from tests.trees import (
    every_kind,
)


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    return tmp_path / "site/builds"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return every_kind(tmp_path / "tree")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compress less: these tests are not about how small it gets."""
    monkeypatch.setattr("olpc_update_query.server.packing.PACK_LEVEL", 3)
    monkeypatch.setattr("olpc_update_query.server.deltafile._LEVEL", 3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two builds of which the newer has a delta."""
    copy = tmp_path_factory.mktemp("pair") / "builds"
    shutil.copytree(SAMPLES, copy)
    return copy
