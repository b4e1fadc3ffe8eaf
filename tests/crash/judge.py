"""What a laptop must be like after a cut, and after the run that follows.

Shares no code with the product (ADR 0005): what boots is decided by ``bench.laptop``,
which follows the initramfs, and trees are compared by ``bench.compare``.
"""

import json
import os
from pathlib import Path
from urllib.parse import parse_qs

from bench.compare import Survey, differences, survey
from bench.laptop import NoBootError, boot, slots
from tests.crash.scenes import Scene

LEASE = "security/lease.sig"
STOLEN = "security/.private/stolen"
REPORTS = "media/STICK/reports"
WORK = "versions/updates/olpc-update-query"


class Judge:
    """Judges the states of one scene.

    Args:
        scene: The scene.
        root: The laptop that is judged.
    """

    def __init__(self, scene: Scene, root: Path) -> None:
        self._scene, self._root = scene, root
        self._wanted = {
            name: survey(build.tree) for name, build in scene.builds.items()
        }
        self._damaged: Survey = {}
        if scene.damaged:
            self._damaged = survey(scene.root / "versions/pristine" / scene.damaged)

    def after_cut(self, *, is_kill: bool) -> list[str]:
        """Return what is wrong after a cut; a laptop without power boots first."""
        scene = self._scene
        try:
            found = slots(self._root)
            if not is_kill:
                boot(self._root)
        except (NoBootError, OSError) as error:
            return [f"it does not boot: {error}"]
        if (found.current, found.alternate) not in (scene.before, scene.after):
            return [f"it would boot {found}"]
        wrong = self._tree(found.current)
        if found.alternate:
            wrong += self._tree(found.alternate)
        return wrong + self._lease(final=False) + self._reports()

    def after_next_run(self, code: int, said: str) -> list[str]:
        """Return what the run that followed has not put right."""
        if code:
            return [f"the next run ends with {code}: {said[-800:]}"]
        scene = self._scene
        try:
            found = tuple(slots(self._root))
        except (NoBootError, OSError) as error:
            return [f"it does not boot after the next run: {error}"]
        if found != scene.after:
            return [f"after the next run it boots {found}"]
        wrong: list[str] = []
        for name in filter(None, scene.after):
            wrong += differences(self._wanted[name], survey(self._pristine(name)))
            wrong += self._run_copy(name, self._wanted[name])
        if scene.gone and os.path.lexists(self._pristine(scene.gone)):
            wrong.append(f"{scene.gone} is still there")
        wrong += self._trial() + self._reports()
        if self._scene.reports and not any((self._root / REPORTS).iterdir()):
            wrong.append("no report is on the stick")
        return wrong + self._lease(final=True) + self._leftovers()

    # --- trees ------------------------------------------------------------------------

    def _pristine(self, build: str) -> Path:
        return self._root / "versions/pristine" / build

    def _tree(self, build: str) -> list[str]:
        """Compare a tree and its run copy with what was published."""
        if build == self._scene.damaged:
            return self._half_mended(build)
        wanted = self._wanted[build]
        wrong = differences(wanted, survey(self._pristine(build)))
        return [f"{build}: {line}" for line in wrong + self._run_copy(build, wanted)]

    def _run_copy(self, build: str, wanted: Survey) -> list[str]:
        """The bytes and names that boot; a repair leaves other facts alone."""
        found = survey(self._root / "versions/run" / build)
        found.pop(b"etc/site", None)  # the hook's
        return [
            f"run/{build}/{path!r}"
            for path, item in wanted.items()
            if path not in found
            or (found[path].kind, found[path].content) != (item.kind, item.content)
        ]

    def _half_mended(self, build: str) -> list[str]:
        """Each path has the bytes it should have, or those of before."""
        found, wanted = survey(self._pristine(build)), self._wanted[build]
        wrong = [f"{path!r} came out of nowhere" for path in self._news(found, wanted)]
        for path, item in found.items():
            good, bad = wanted.get(path), self._damaged.get(path)
            contents = {each.content for each in (good, bad) if each is not None}
            if contents and item.content not in contents:
                wrong.append(f"{path!r} is neither the damaged nor the good one")
        missing = {path for path in wanted if path in self._damaged} - found.keys()
        return wrong + [f"{path!r} is lost" for path in missing]

    def _news(self, found: Survey, wanted: Survey) -> set[bytes]:
        return found.keys() - wanted.keys() - self._damaged.keys()

    # --- the rest ---------------------------------------------------------------------

    def _lease(self, *, final: bool) -> list[str]:
        old, new = self._scene.leases
        path = self._root / LEASE
        found = path.read_bytes() if path.exists() else None
        is_marked = (self._root / STOLEN).exists()
        if found not in ({new} if final and self._scene.renews else {old, new}):
            return [f"the lease is {(found or b'none')[:60]!r}"]
        if found is None and not is_marked:
            return ["the lease is gone, and nobody says that the laptop is stolen"]
        return []

    def _reports(self) -> list[str]:
        """What is on a stick under a report's name is a whole one."""
        wrong = []
        for path in (self._root / REPORTS).glob("[!.]*"):
            fields = parse_qs(path.read_text())
            try:
                json.loads(fields["report"][0])
            except (KeyError, ValueError):
                wrong.append(f"{path.name} on the stick is not whole")
        return wrong

    def _trial(self) -> list[str]:
        """The mark names the build that is on trial, and only that one."""
        mark = self._root / "versions/trial"
        state, build = (mark.read_text().split() if mark.exists() else ["", ""])[:2]
        found = build if state == "trial" else ""
        if found != self._scene.on_trial:
            return [f"on trial is {found or 'nothing'}, not {self._scene.on_trial}"]
        return []

    def _leftovers(self) -> list[str]:
        """Nothing that a run was at work on is left."""
        found = [
            str(path.relative_to(self._root))
            for pattern in ("versions/*", "bootpart/*", "bootpart/boot-versions/*")
            for place in self._root.glob(pattern)
            for path in (place, *(place.iterdir() if _is_plain(place) else ()))
            if path.name.startswith(".")
        ]
        installer, downloads = self._root / WORK / "installer", self._root / WORK
        for place in (installer / "stage", installer / "store"):
            found += [str(path) for path in (place.iterdir() if place.exists() else ())]
        for path in (downloads / "asker/downloads").glob("*/*"):
            if path.is_file():
                found.append(str(path))
        configs = self._root / "versions/configs"
        if configs.is_dir() and len(list(configs.iterdir())) > 1:
            found.append("configs that are not in use")
        return [f"left over: {name}" for name in found]


def _is_plain(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
