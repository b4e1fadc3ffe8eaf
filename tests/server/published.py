"""What the tests of publishing share."""

import random
from pathlib import Path

from olpc_update_query.model.manifest import Entry, ManifestReader
from olpc_update_query.model.wire import BuildId

SAMPLES = Path(__file__).parents[2] / "docs/samples/builds"
FIRST, SECOND, THIRD = BuildId("1"), BuildId("2"), BuildId("3")


class Story:
    """Remembers what was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.done: list[tuple[int, int]] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def transferred(self, done: int, total: int) -> None:
        self.done.append((done, total))


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def files_of(build: Path) -> dict[str, bytes]:
    """Return the files of a build, those of its plain tree left out."""
    return {
        str(path.relative_to(build)): path.read_bytes()
        for path in sorted(build.rglob("*"))
        if path.is_file() and "root" not in path.relative_to(build).parts
    }


def entries(build: Path) -> list[Entry]:
    with open(build / "contents", "rb") as stream:
        return list(ManifestReader(stream))


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
