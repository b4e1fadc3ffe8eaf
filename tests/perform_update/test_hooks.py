"""A site's hooks: which run, with what, and what a failing one stops."""

import os
import time
from pathlib import Path

import pytest

from olpc_update_query.errors import HookFailed
from olpc_update_query.perform_update.hooks import run_hooks
from tests.laptop import boots, boots_alternate
from tests.perform_update.builds import Build, Told
from tests.perform_update.conftest import Laptop
from tests.trees import difference, snapshot


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    (tmp_path / "hooks.d").mkdir()
    return tmp_path / "hooks.d"


def add(hooks: Path, name: str, script: str, mode: int = 0o755) -> Path:
    hooks.mkdir(parents=True, exist_ok=True)
    hook = hooks / name
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(mode)
    return hook


def run(hooks: Path, tree: Path, timeout: float = 20) -> list[str]:
    told = Told()
    run_hooks(hooks, tree, told, timeout=timeout)
    return [step.rsplit(" ", 1)[1] for step in told.steps]


def test_hooks_run_in_order_with_the_tree(hooks: Path, tmp_path: Path) -> None:
    for name in ("20-second", "10-first", "30.third"):
        add(hooks, name, f'echo {name} "$@" >> {tmp_path}/log')
    assert run(hooks, tmp_path / "a tree") == ["10-first", "20-second", "30.third"]
    tree = tmp_path / "a tree"
    assert (tmp_path / "log").read_text().splitlines() == [
        f"10-first {tree}",
        f"20-second {tree}",
        f"30.third {tree}",
    ]


def test_what_is_no_hook_is_passed_over(hooks: Path, tmp_path: Path) -> None:
    add(hooks, "plain", "exit 1", mode=0o644)
    add(hooks, "backup~", "exit 1")
    add(hooks, ".hidden", "exit 1")
    (hooks / "directory").mkdir()
    (hooks / "link").symlink_to(add(tmp_path, "elsewhere", "exit 1"))
    assert run(hooks, tmp_path) == []
    assert run(tmp_path / "not there", tmp_path) == []


def test_a_hook_has_a_clean_world(
    hooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nowhere")
    monkeypatch.setenv("SECRET", "x")
    add(hooks, "show", f"(pwd; env; cat) > {tmp_path}/world")
    run(hooks, tmp_path)
    lines = (tmp_path / "world").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines[1:]}
    assert lines[0] == "/"
    assert names <= {"PATH", "LANG", "HOME", "PWD", "SHLVL", "_", "OLDPWD"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("echo one; echo sorry >&2; exit 7", "code 7: sorry", id="code"),
        pytest.param("kill -9 $$", "ended by signal 9", id="signal"),
        pytest.param("exit 1", "code 1$", id="silent"),
        pytest.param("sleep 60", "within 0.2 seconds", id="too slow"),
    ],
)
def test_a_hook_that_fails(
    hooks: Path, tmp_path: Path, script: str, reason: str
) -> None:
    add(hooks, "10-bad", script)
    add(hooks, "20-next", f"touch {tmp_path}/next")
    with pytest.raises(HookFailed, match=f"hook 10-bad .*{reason}"):
        run(hooks, tmp_path, timeout=0.2 if "sleep" in script else 20)
    assert not (tmp_path / "next").exists()


def test_a_hook_without_interpreter(hooks: Path, tmp_path: Path) -> None:
    (hooks / "bad").write_text("#!/no/such/thing\n")
    (hooks / "bad").chmod(0o755)
    with pytest.raises(HookFailed, match="hook bad cannot be run"):
        run(hooks, tmp_path)


def test_a_hook_that_anybody_may_change_is_not_run(hooks: Path, tmp_path: Path) -> None:
    add(hooks, "open", f"touch {tmp_path}/ran", mode=0o757)
    with pytest.raises(HookFailed, match="may be changed by anybody"):
        run(hooks, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_nothing_a_hook_started_goes_on(hooks: Path, tmp_path: Path) -> None:
    add(hooks, "fork", f"(sleep 0.3; touch {tmp_path}/later) &")
    run(hooks, tmp_path)
    time.sleep(0.6)
    assert not (tmp_path / "later").exists()


# --- in an installation -------------------------------------------------------------


def test_hooks_change_the_run_copy_only(laptop: Laptop, new: Build) -> None:
    add(laptop.hooks, "site", 'cp /bin/true "$1/bin/site"; rm "$1/etc/fresh"')
    laptop.fetch_and_install(new)
    run = laptop.layout.run(new.name)
    assert (run / "bin/site").exists()
    assert not (run / "etc/fresh").exists()
    assert not difference(snapshot(new.tree), laptop.pristine(new))
    assert laptop.layout.current() == new.name


def test_a_failing_hook_stops_the_activation(laptop: Laptop, new: Build) -> None:
    before = laptop.pristine(laptop.old)
    hook = add(laptop.hooks, "bad", 'touch "$1/half"; exit 1')
    with pytest.raises(HookFailed):
        laptop.fetch_and_install(new)
    assert boots(laptop.root) == "760"
    assert boots_alternate(laptop.root) is None
    assert os.listdir(laptop.root / "versions/run") == ["760"]
    hook.unlink()
    laptop.install(new)
    assert boots(laptop.root) == "762"
    assert not (laptop.layout.run(new.name) / "half").exists()
    assert not difference(before, laptop.pristine(laptop.old))
