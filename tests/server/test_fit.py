"""Trees that no laptop could boot are not published."""

from pathlib import Path

import pytest

from olpc_update_query.errors import UnfitTree
from olpc_update_query.server import publish
from tests.server.published import FIRST, entries
from tests.trees import File, Link, Spec, build_tree

PROGRAM = File("#!", mode=0o755)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"sbin/init": PROGRAM}, id="as it is"),
        pytest.param(
            {
                "sbin": Link("usr/sbin"),
                "usr/sbin/init": Link("/lib/systemd/systemd"),
                "lib": Link("./usr//lib"),
                "usr/lib/systemd/systemd": PROGRAM,
            },
            id="by links, as in Debian",
        ),
        pytest.param(
            {"sbin/init": Link("../../../bin/init"), "bin/init": PROGRAM},
            id="never above the tree",
        ),
    ],
)
def test_what_boots(tmp_path: Path, spec: Spec) -> None:
    tree = build_tree(tmp_path / "tree", {"etc/": None, **spec})
    publish.publish(tmp_path / "builds", tree, FIRST, must_boot=True)
    assert entries(tmp_path / "builds/1")


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        pytest.param({"sbin/init": PROGRAM}, "etc: there is no", id="no etc"),
        pytest.param(
            {"etc": "a file", "sbin/init": PROGRAM}, "etc: there is no", id="etc a file"
        ),
        pytest.param({"etc/": None}, "sbin/init: there is no", id="no init"),
        pytest.param(
            {"etc/": None, "sbin/init/": None}, "there is no", id="init a directory"
        ),
        pytest.param(
            {"etc/": None, "sbin/init": Link("/lib/init")}, "there is no", id="dangling"
        ),
        pytest.param(
            {"etc/": None, "sbin/init": Link("init")}, "there is no", id="in a circle"
        ),
        pytest.param(
            {"etc/": None, "sbin/init": "text"}, "is not executable", id="no program"
        ),
    ],
)
def test_what_does_not_boot(tmp_path: Path, spec: Spec, match: str) -> None:
    tree = build_tree(tmp_path / "tree", spec)
    with pytest.raises(UnfitTree, match=match):
        publish.publish(tmp_path / "builds", tree, FIRST, must_boot=True)
    assert [path.name for path in (tmp_path / "builds").iterdir()] == [".lock"]
    publish.publish(tmp_path / "builds", tree, FIRST)
