"""The trial of a build, seen from outside: confirmed, failed, left, tried again."""

from dataclasses import replace

import pytest

from olpc_update_query.model.messages import BuildId, Reboot
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.trial import Mark, State, read_mark, write_mark
from tests.cli.black_box import query, update
from tests.cli.school import School
from tests.laptop import boot, boots
from tests.perform_update.published import make_build

pytestmark = pytest.mark.root  # a tree's owners are root and others

OLD, NEW = BuildId("760"), BuildId("762")
FRESH = Mark(State.TRIAL, NEW, 0)


@pytest.fixture
def school(school: School) -> School:
    """A school whose laptop has just installed build 762."""
    assert update(school.root, "762").code == 0
    return school


def mark_of(school: School) -> Mark | None:
    return read_mark(school.root / "versions")


def results(school: School) -> list[str]:
    return [row["result"] for row in query(school.root, "history", "--json").json]


def fail(school: School) -> None:
    """Do what the initramfs does after two tries."""
    write_mark(school.root / "versions", Mark(State.FAILED, NEW, 2))
    Layout.detect(school.root).activate(OLD, NEW)
    assert boot(school.root) == OLD


def check(school: School, code: int) -> None:
    path = school.root / "etc/olpc-update-query/checks.d/10-site"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho no screen >&2\nexit {code}\n")
    path.chmod(0o755)


def test_a_new_build_is_on_trial_until_it_is_confirmed(school: School) -> None:
    assert mark_of(school) == FRESH
    assert "nothing to do" in update(school.root, "--confirm").out, "760 is running"
    boot(school.root)
    found = query(school.root, "status", "--json").json
    assert found["on_trial"] == {"build": "762", "tries": 0}
    assert "762" in query(school.root, "status").out
    done = update(school.root, "--confirm")
    assert (done.code, done.out) == (0, "build 762 is up, and confirmed\n")
    assert mark_of(school) is None
    assert query(school.root, "status", "--json").json["on_trial"] is None
    assert results(school) == ["installed", "confirmed"]
    assert "nothing to do" in update(school.root, "--confirm").out
    assert results(school) == ["installed", "confirmed"]


def test_a_check_of_the_site_decides(school: School) -> None:
    boot(school.root)
    check(school, 1)
    done = update(school.root, "--confirm")
    assert done.code == 71
    assert "10-site" in done.err
    assert "no screen" in done.err
    assert mark_of(school) == FRESH
    check(school, 0)
    assert update(school.root, "--confirm").code == 0
    assert mark_of(school) is None


def test_a_build_that_failed_is_told_and_not_installed_again(school: School) -> None:
    fail(school)
    school.server.update = school.order()
    assert query(school.root, "--now").code == 43
    text = "build 762 did not come up in 2 tries; build 760 boots again"
    events = query(school.root, "history", "--json").json
    (event,) = [row for row in events if row["exit_code"] == 69]
    assert (event["text"], event["build"]) == (text, "762")
    report = school.server.queries[-1].report
    assert report is not None
    assert (report["build"], report["code"], report["result"]) == ("762", 69, text)
    assert query(school.root, "status", "--json").json["given_up"] == ["762"]
    assert mark_of(school) is None
    assert boots(school.root) == OLD
    assert query(school.root, "--now").code == 43, "and it stays so"


def test_a_list_that_cannot_be_read_is_not_an_empty_one(school: School) -> None:
    """The disk refuses: nothing is installed, and the mark waits for the next run."""
    fail(school)
    school.server.update = school.order()
    refused = school.root / "versions/updates/olpc-update-query/installer/given-up.json"
    refused.mkdir()
    done = query(school.root, "--now")
    assert done.code == 35
    assert "given-up.json" in done.err
    assert mark_of(school) == Mark(State.FAILED, NEW, 2)
    assert boots(school.root) == OLD
    assert query(school.root, "status").code == 0
    refused.rmdir()
    assert query(school.root, "--now").code == 43
    assert mark_of(school) is None
    assert query(school.root, "status", "--json").json["given_up"] == ["762"]


def test_a_mark_that_cannot_be_read_is_not_an_absent_one(school: School) -> None:
    """The service is asked again; the trial ends when the disk lets it."""
    boot(school.root)
    mark = school.root / "versions/trial"
    mark.rename(mark.with_name("aside"))
    mark.mkdir()
    done = update(school.root, "--confirm")
    assert (done.code, done.out) == (35, "")
    assert "versions/trial: not a regular file" in done.err
    assert "hint: " in done.err
    mark.rmdir()
    mark.with_name("aside").rename(mark)
    assert update(school.root, "--confirm").code == 0
    assert results(school) == ["installed", "confirmed"]


def test_a_rollback_that_cannot_be_noted_is_done_all_the_same(school: School) -> None:
    """Whoever took it for a failure and asked again would undo it."""
    boot(school.root)
    state = school.root / "versions/updates/olpc-update-query/installer"
    (state / "given-up.json").mkdir()
    done = update(school.root, "--rollback")
    assert done.code == 0
    assert "build 760 boots next; that is done" in done.out
    assert "given-up.json" in done.out
    assert boots(school.root) == OLD
    assert mark_of(school) == Mark(State.LEFT, NEW, 0)
    (state / "given-up.json").rmdir()
    assert query(school.root, "--now").code == 0
    assert query(school.root, "status", "--json").json["given_up"] == ["762"]
    assert (boots(school.root), mark_of(school)) == (OLD, None)


def test_the_confirming_service_tells_it_too(school: School) -> None:
    fail(school)
    assert update(school.root, "--confirm").code == 0
    assert "failed" in results(school)
    assert query(school.root, "status", "--json").json["given_up"] == ["762"]


def test_force_tries_it_again_and_confirming_forgives_it(school: School) -> None:
    fail(school)
    assert update(school.root, "762").code == 43
    assert update(school.root, "-f", "762").code == 0
    assert mark_of(school) == FRESH
    assert boot(school.root) == NEW
    assert update(school.root, "--confirm").code == 0
    assert query(school.root, "status", "--json").json["given_up"] == []


def test_another_manifest_is_another_build(school: School) -> None:
    fail(school)
    build = make_build(school.root.parent / "763", "763", {"boot/vmlinuz": b"better"})
    school.publish(build)
    school.server.update = school.order(build)
    assert query(school.root, "--now").code == 0
    assert boots(school.root) == "763"
    assert mark_of(school) == Mark(State.TRIAL, BuildId("763"), 0)


def test_rollback_ends_the_trial(school: School) -> None:
    boot(school.root)
    assert update(school.root, "--rollback").code == 0
    assert mark_of(school) is None
    assert boots(school.root) == OLD
    assert query(school.root, "status", "--json").json["given_up"] == ["762"]
    assert update(school.root, "--rollback").code == 0
    assert boots(school.root) == NEW
    assert mark_of(school) is None, "it is running, so it has come up"


def test_going_forward_to_what_failed_is_a_trial(school: School) -> None:
    fail(school)
    assert update(school.root, "--rollback").code == 0
    assert boots(school.root) == NEW
    assert mark_of(school) == FRESH
    assert results(school)[-2:] == ["failed", "rolled-back"]


def test_the_game_key_is_written_down(school: School) -> None:
    boot(school.root)
    write_mark(school.root / "versions", Mark(State.LEFT, NEW, 1))
    Layout.detect(school.root).activate(OLD, NEW)
    boot(school.root)
    school.server.update = school.order()
    assert query(school.root, "--now").code == 43
    assert "rolled-back" in results(school)
    assert mark_of(school) is None


def test_an_order_waits_while_the_running_build_is_tried(school: School) -> None:
    build = make_build(school.root.parent / "763", "763", {"boot/vmlinuz": b"better"})
    school.publish(build)
    school.server.update = replace(school.order(build), reboot=Reboot.NOW)
    boot(school.root)
    done = query(school.root, "--now")
    assert done.code == 0
    assert "762 is on trial" in done.out
    assert boots(school.root) == NEW
    update(school.root, "--confirm")
    assert query(school.root, "--now").code == 0
    assert boots(school.root) == "763"


def test_an_order_replaces_what_was_never_tried(school: School) -> None:
    build = make_build(school.root.parent / "763", "763", {"boot/vmlinuz": b"better"})
    school.publish(build)
    school.server.update = school.order(build)
    assert query(school.root, "--now").code == 0
    assert boots(school.root) == "763"
    assert mark_of(school) == Mark(State.TRIAL, BuildId("763"), 0)
    assert Layout.detect(school.root).alternate() == OLD


def test_purging_and_tidying_leave_no_stale_mark(school: School) -> None:
    layout = Layout.detect(school.root)
    layout.activate(OLD, None)
    assert mark_of(school) is None
    write_mark(layout.versions, FRESH)
    layout.tidy()
    assert mark_of(school) is None, "the power failed before the link swung"


@pytest.mark.parametrize("text", ["", "trial", "x 762 0", "trial .. 0", "trial 762 a"])
def test_a_damaged_mark_counts_as_none(school: School, text: str) -> None:
    (school.root / "versions/trial").write_text(text)
    boot(school.root)
    assert update(school.root, "--confirm").code == 0
