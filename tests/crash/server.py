"""The school server, cut short: ``python -m tests.crash.server [CHORE ...]``.

Each chore is a command of the administrator, or the server that answers laptops, on a
real site. Its calls are recorded, and power fails after each of them in every order
that ``orders`` tries. No state may lose what was promised by then, every file is the
old or the new one, whole, and the same command finishes what was begun.
"""

import argparse
import contextlib
import hashlib
import io
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from olpc_update_query.cli.admin import admin
from olpc_update_query.errors import UpdateError
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.server.app import QUERY_PATH, create_app
from olpc_update_query.server.check import Weight, check_site
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from tests.crash.disk import Name, differences, read_disk
from tests.crash.journal import Journal, Sync
from tests.crash.orders import State, states
from tests.crash.record import record
from tests.crash.sweep import Bounds, Swept, require_tools, scratch
from tests.keys import UUID
from tests.trees import Spec, build_tree

_SERIALS = tuple(f"SHC0000000{number}" for number in range(6))
_OLD: Spec = {"etc/issue": "old", "usr/a": "a" * 5000, "usr/b": "one"}
_NEW: Spec = {"etc/issue": "new", "usr/a": "a" * 4000 + "b" * 1000, "usr/b": "one"}
_FILES = ("site.toml", "laptops.csv", "rollout.toml", "keys/[!.]*")
_CHANGED = re.compile(rb"\nchanged = .*")
_LEFT = ("builds/.[!l]*", ".*.new", "keys/.*.new", "keys/new-*", "builds/*/.*.new")
_STAMP = len("20270115T080000Z")
_PROMISES = "promises"
"""A directory beside the site: an empty one is made in it when something is said."""


Job = Callable[[Path], int]


@dataclass(frozen=True)
class Chore:
    """Something that is done to a site.

    Attributes:
        name: Its name.
        job: Does it, in the directory that holds the site; returns an exit code.
        before: Commands that make the site what it is before.
        again: What somebody does after a cut; the same unless said.
        is_random: Whether doing it again makes other bytes, as new keys are.
    """

    name: str
    job: Job
    before: tuple[Job, ...] = ()
    again: Job | None = None
    is_random: bool = False


def command(*words: str) -> Job:
    """Return a job: one of the administrator's commands, on the site."""

    def job(root: Path) -> int:
        line = [word.replace("{}", str(root)) for word in words]
        return _admin(root, *line)

    return job


def _admin(root: Path, *words: str) -> int:
    parts = 1 if words[0] not in {"laptops", "reports", "keys"} else 2
    line = [*words[:parts], str(root / "site"), *words[parts:]]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            code = admin.main(line, prog_name="admin", standalone_mode=False)
        except UpdateError as error:
            print(f"{words}: {error}", file=sys.stderr)
            return int(error.exit_code)
    return code if isinstance(code, int) else 0


def promise(root: Path, what: str) -> None:
    """Write down, among what the job does, that somebody was told something."""
    (root / _PROMISES / what).mkdir(parents=True, exist_ok=True)


def poll(root: Path) -> int:
    """Answer laptops that report something: what was answered is on the disk."""
    app = create_app(root / "site")
    try:
        for number, serial in enumerate(_SERIALS):
            _report(app, serial, 20 if number < 4 else 0)
            promise(root, f"report-{serial}")
    finally:
        app.extensions["reports"].close()
    return 0


def _report(app: Any, serial: str, code: int) -> None:
    told: dict[str, Json] = {"build": "762", "code": code, "result": f"x{code}"}
    report = canonical.encode(told)
    form = {"serialnum": serial, "version": "1", "nonce": "5", "build": "760"}
    body = urlencode({**form, "report": report.decode()}).encode()
    said: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": QUERY_PATH,
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_HOST": "schoolserver",
        "REMOTE_ADDR": "10.0.0.7",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
    }
    list(app.wsgi_app(environ, lambda status, _: said.append(status)))
    if said != ["200 OK"]:
        raise RuntimeError(f"the server said {said}")


def bring_home(root: Path) -> int:
    """Import what laptops have left on a stick."""
    code = _admin(root, "reports", "import", str(root / "stick"))
    if code == 0:
        for serial in _SERIALS:
            promise(root, f"report-{serial}")
    return code


def _leave_reports(root: Path) -> int:
    place = root / "stick/reports"
    place.mkdir(parents=True)
    for serial in _SERIALS:
        told: dict[str, Json] = {"build": "762", "code": 0, "result": "installed"}
        report = canonical.encode({**told, "time": "20270101T000000Z"}).decode()
        form = {"serialnum": serial, "version": "1", "nonce": "5", "build": "762"}
        text = urlencode({**form, "report": report})
        (place / f"{serial}.txt").write_text(text)
    return 0


def make(root: Path) -> int:
    """Make a site; after a cut, the keys that a site lacks."""
    if (root / "site/site.toml").exists():
        return _admin(root, "keygen")
    return _admin(root, "init")


def _unpublish(root: Path) -> int:
    is_there = (root / "site/builds/761").exists()
    return _admin(root, "unpublish", "761") if is_there else _admin(root, "gc")


def _rotate(root: Path) -> int:
    return _admin(root, "keys", "rotate", "--role", "oats", "--name", "b")


def _rotate_again(root: Path) -> int:
    keys = root / "site/keys"
    is_done = (keys / "oats-b.public").exists() and not list(keys.glob("new-*"))
    return 0 if is_done else _rotate(root)


def _draft(root: Path) -> int:
    """Do all that precedes `keys publish`, which is said alike after a cut."""
    keys, draft = root / "site/keys", str(root / "draft")
    role = ("--role", "oats")
    done = _admin(root, "keys", "new", *role, "--name", "b")
    change = ("--add", str(keys / "new-oats-b.public"), "--retire", "oats.public")
    done += _admin(root, "keys", "draft", *role, *change, "--out", draft)
    words = ["keys", "sign", draft, "--key", str(keys / "oats.private")]
    with contextlib.redirect_stdout(io.StringIO()):
        admin.main(words, prog_name="admin", standalone_mode=False)
    return done


def _publish(root: Path) -> int:
    if (root / "site/builds/762").exists():
        return 0
    return command(*_PUBLISH)(root)


_PUBLISH = ("publish", "{}/new", "--build", "762", "--any-tree", "--delta-from", "760")
_THIRD = command("publish", "{}/old", "--build", "761", "--any-tree")
_ASSIGN = command("assign", "--build", "760", "--percent", "40")

CHORES = (
    Chore("init", make, is_random=True),
    Chore("import", command("laptops", "import", "{}/laptops.csv")),
    Chore("assign", command("assign", "--build", "760", "--percent", "60"), (_ASSIGN,)),
    Chore("stolen", command("stolen", _SERIALS[0])),
    Chore("policy", command("policy", "--group", "5B", "--days", "60")),
    Chore("rotate", _rotate, again=_rotate_again, is_random=True),
    Chore("statement", command("keys", "publish", "{}/draft"), (_draft,)),
    Chore(
        "password", command("password", "--password", "correct horse"), is_random=True
    ),
    Chore("publish", command(*_PUBLISH), again=_publish),
    Chore("unpublish", command("unpublish", "761"), (_THIRD, _ASSIGN), _unpublish),
    Chore("gc", command("gc"), (_THIRD, _ASSIGN)),
    Chore("poll", poll, (_ASSIGN,)),
    Chore("reports", bring_home, (_leave_reports,)),
)


# --- what has to hold ---------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """A site as it was.

    Attributes:
        files: What the files hold that people or laptops rely on.
        builds: A digest of everything in each build that can be seen.
        errors: What `check` finds wrong.
        records: The lines of `changes.log`.
    """

    files: dict[str, bytes]
    builds: dict[str, str]
    errors: set[str]
    records: tuple[bytes, ...]


def look(root: Path) -> Snapshot:
    """Look at a site with the eyes of a stranger, and with those of `check`."""
    site = root / "site"
    files = {
        str(path.relative_to(site)): path.read_bytes()
        for pattern in _FILES
        for path in site.glob(pattern)
    }
    builds = {path.name: _digest(path) for path in site.glob("builds/[!.]*")}
    builds |= {f"{name}/order": _order(site / "builds" / name) for name in builds}
    marks = repr((sorted(files.items()), sorted(builds.items()), _modes(site)))
    if marks not in _SEEN:
        _SEEN[marks] = _errors(site)
    log = site / "changes.log"
    lines = log.read_bytes().splitlines() if log.exists() else []
    return Snapshot(files, builds, _SEEN[marks], tuple(lines))


def _modes(site: Path) -> list[int]:
    places = [site / "keys", *sorted(site.glob("keys/*"))]
    return [path.stat().st_mode for path in places if path.exists()]


def _order(build: Path) -> str:
    path = build / "order"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _digest(top: Path) -> str:
    told = hashlib.sha256()
    for path in sorted(set(top.rglob("[!.]*")) - {top / "order"}):
        data = path.read_bytes() if path.is_file() else b""
        told.update(repr((str(path.relative_to(top)), data)).encode())
    return told.hexdigest()


_SEEN: dict[str, set[str]] = {}
"""What `check` found in which site: to prove a key takes as long as all the rest."""


def _errors(path: Path) -> set[str]:
    if not (path / "site.toml").exists():
        return set()
    found = check_site(Site(path, SystemClock()), SystemClock().now())
    errors = [one for one in found if one.weight is Weight.ERROR]
    return {f"{one.where}: {one.text}".replace(str(path), "") for one in errors}


class Judge:
    """Judges the states of one chore.

    Args:
        chore: The chore.
        before: The site before it.
        after: The site after it.
        root: The directory that is judged.
    """

    def __init__(
        self, chore: Chore, before: Snapshot, after: Snapshot, root: Path
    ) -> None:
        self._chore, self._before, self._after = chore, before, after
        self._root = root

    def after_cut(self, promised: set[str]) -> list[str]:
        """Return what is wrong with a state."""
        found, before, after = look(self._root), self._before, self._after
        wrong = _mixed(found.files, before.files, after.files)
        wrong += _mixed(found.builds, before.builds, after.builds)
        wrong += _unrecorded(found, before, after)
        if DONE in promised:
            wrong += _unlike(found, after)
        if self._chore.name != "init" or DONE in promised:
            wrong += sorted(found.errors - before.errors - after.errors)
        return wrong + self._lost_reports(promised)

    def after_again(self, code: int, said: str, promised: set[str]) -> list[str]:
        """Return what the same command, said again, has not put right."""
        if code:
            return [f"again: ended with {code}: {said[-300:]}"]
        found = look(self._root)
        wrong = sorted(found.errors - self._after.errors)
        if not self._chore.is_random:
            wrong += _unlike(found, self._after)
        site = self._root / "site"
        for pattern in _LEFT:
            wrong += [f"{path} is left over" for path in site.glob(pattern)]
        return [f"again: {one}" for one in wrong + self._lost_reports(promised)]

    def _lost_reports(self, promised: set[str]) -> list[str]:
        """Read the database with nothing of ours; a copy, or it would be mended."""
        wanted = {one[7:] for one in promised if one.startswith("report-")}
        if not wanted:
            return []
        copy = self._root / "reports"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in (self._root / "site").glob("reports.db*"):
            shutil.copyfile(path, copy / path.name)
        base = sqlite3.connect(copy / "reports.db")
        try:
            rows = base.execute("select serial from laptops where report is not null")
            lost = wanted - {serial for (serial,) in rows}
            sound = base.execute("pragma integrity_check").fetchone()[0]
        except sqlite3.Error as error:
            return [f"reports.db: {error}"]
        finally:
            base.close()
        wrong = [f"the report of {serial} is lost" for serial in sorted(lost)]
        return wrong + ([] if sound == "ok" else [f"reports.db: {sound}"])


def _mixed(
    found: Mapping[str, object],
    before: Mapping[str, object],
    after: Mapping[str, object],
) -> list[str]:
    """Tell of what is neither as it was nor as it was to become.

    A key that nobody trusts yet is called new-: it gets its name when it is.
    """
    wrong = []
    for name in {*found, *before, *after}:
        good: list[object] = [before.get(name), after.get(name)]
        if name.startswith("keys/new-"):
            good += [after.get(name.replace("new-", ""))]
        if found.get(name) not in good:
            wrong.append(f"{name} is neither the old nor the new one")
    return sorted(wrong)


def _unrecorded(found: Snapshot, before: Snapshot, after: Snapshot) -> list[str]:
    """Tell whether something has changed of which `changes.log` does not tell.

    A site that is being made has no log before it has all but its keys.
    """
    is_changed = (found.files, found.builds) != (before.files, before.builds)
    is_begun = before.records or any(name.startswith("keys/") for name in found.files)
    said = [line[_STAMP:] for line in found.records[len(before.records) :]]
    wanted = [line[_STAMP:] for line in after.records[len(before.records) :]]
    if is_changed and is_begun and said[:1] != wanted[:1]:
        return ["changes.log does not tell of what has changed"]
    return []


def _unlike(found: Snapshot, wanted: Snapshot) -> list[str]:
    names = _timeless(found).items() ^ _timeless(wanted).items()
    return [f"{name} is not as it should be" for name in sorted({x for x, _ in names})]


def _timeless(site: Snapshot) -> dict[str, object]:
    """Return all of it but when something was said, and signatures of that."""
    files = {name: _CHANGED.sub(b"", data) for name, data in site.files.items()}
    builds = {name: bool(of) if "/" in name else of for name, of in site.builds.items()}
    return {**files, **builds}


# --- the sweep ----------------------------------------------------------------------

DONE = "done"


def prepare(chore: Chore, root: Path) -> None:
    """Make the site that a chore begins with."""
    root.mkdir()
    (root / _PROMISES).mkdir()
    build_tree(root / "old", _OLD)
    build_tree(root / "new", _NEW)
    rows = [f"{serial},{UUID},5B" for serial in _SERIALS]
    (root / "laptops.csv").write_text("\n".join(["serial,uuid,group", *rows, ""]))
    if chore.name == "init":
        return
    first = command("publish", "{}/old", "--build", "760", "--any-tree")
    listed = command("laptops", "import", "{}/laptops.csv")
    makes = (make, first, *([listed] if chore.name != "import" else []))
    for job in (*makes, *chore.before):
        if job(root):
            raise RuntimeError(f"{chore.name}: the site could not be made")


def record_chore(chore: Chore, start: Path, place: Path) -> tuple[Journal, Snapshot]:
    """Do it once on a copy, and return what was done, and the site after it."""
    root = place / "site-root"
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-a", start, root], check=True)

    def job() -> int:
        code = chore.job(root)
        promise(root, DONE)
        return code

    ended, journal = record(job, root, place / "log")
    if ended.code:
        raise RuntimeError(f"{chore.name}: ended with {ended.code}: {ended.said}")
    if wrong := differences(journal.end(), read_disk(root)):
        raise RuntimeError(f"{chore.name}: not replayed: {wrong[:5]}")
    return journal, look(root)


def promises(journal: Journal) -> Iterator[tuple[int, str]]:
    """Yield after how many changes each promise was made."""
    place = journal.start.nodes[1].names[_PROMISES.encode()]
    changes = (event for event in journal.events if not isinstance(event, Sync))
    for point, change in enumerate(changes, 1):
        if isinstance(change, Name) and change.directory == place:
            yield point, change.name.decode()


def sweep_chore(chore: Chore, place: Path, bounds: Bounds) -> Swept:
    """Record a chore, then try the states that cuts may leave."""
    start, root = place / "start", place / "site-root"
    shutil.rmtree(start, ignore_errors=True)
    prepare(chore, start)
    before = look(start)
    journal, after = record_chore(chore, start, place)
    told = list(promises(journal))
    judge, found = Judge(chore, before, after, root), Swept()
    found.points = sum(not isinstance(one, Sync) for one in journal.events)
    for state in _distinct(journal, bounds):
        promised = {what for point, what in told if point <= state.point}
        wrong = _try(chore, judge, state, root, promised)
        found.states += 1
        found.orders[state.order] += 1
        if wrong:
            how = "killed" if state.is_kill else f"power cut, {state.order}"
            found.failures.append(f"{chore.name}, {state.point}, {how}: {wrong[0]}")
            if len(found.failures) >= bounds.stop:
                break
    return found


def _distinct(journal: Journal, bounds: Bounds) -> Iterator[State]:
    seen: set[int] = set()
    for state in states(journal, most=bounds.most, seed=1, synced=bounds.synced):
        mark = state.disk.fingerprint()
        if mark not in seen:
            seen.add(mark)
            if len(seen) % bounds.share == 0:
                yield state


def _try(
    chore: Chore, judge: Judge, state: State, root: Path, promised: set[str]
) -> list[str]:
    shutil.rmtree(root)
    root.mkdir()
    state.disk.write_to(root, 0)
    try:
        if wrong := judge.after_cut(promised):
            return wrong
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            code = (chore.again or chore.job)(root)
        return judge.after_again(code, told.getvalue(), promised)
    except (UpdateError, OSError, RuntimeError) as error:
        return [f"{type(error).__name__}: {error}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=24)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--stop", type=int, default=5)
    parser.add_argument("--unsafe", action="store_true")
    parser.add_argument("chores", nargs="*")
    given = parser.parse_args()
    require_tools()
    bounds = Bounds(given.most, given.share, not given.unsafe, 1, given.stop)
    total = Swept()
    for chore in CHORES:
        if given.chores and chore.name not in given.chores:
            continue
        begin = time.monotonic()
        with scratch() as place:
            found = sweep_chore(chore, place, bounds)
        total.add(found)
        print(
            f"{chore.name}: {found.points} changes, {found.states} states, "
            f"{len(found.failures)} failures, {time.monotonic() - begin:.0f} s",
            flush=True,
        )
        for line in found.failures:
            print(f"  {line}", flush=True)
    print(f"server: {total.states} states, {len(total.failures)} failures")
    sys.exit(1 if total.failures or not total.states else 0)


if __name__ == "__main__":
    main()
