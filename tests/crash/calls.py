"""System calls of a real process, as strace writes them down.

Strings come in hex and whole, so what was written can be written again.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

TRACED = (
    "open,openat,creat,close,dup,dup2,dup3,fcntl,lseek,clone,clone3,fork,vfork,"
    "mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,rename,renameat,"
    "renameat2,unlink,unlinkat,rmdir,write,pwrite64,writev,pwritev,pwritev2,"
    "truncate,ftruncate,fallocate,copy_file_range,sendfile,ioctl,chmod,fchmod,"
    "fchmodat,chown,fchown,lchown,fchownat,utimensat,utime,utimes,futimesat,"
    "setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr,"
    "setresuid,setresgid,fsync,fdatasync,sync,syncfs,sync_file_range,read,readv,mmap"
)
_LINE = re.compile(r"(\d+) +(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\w+)(?:[ <].*)?$", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>,? ?(.*)", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_COMMENT = re.compile(r" */\*.*?\*/")
_BYTE = re.compile(r"\\x([0-9a-f]{2})")


class Call(NamedTuple):
    """One system call that succeeded.

    Attributes:
        pid: Who made it.
        name: Its name.
        args: Its arguments, as text.
        result: What it returned.
    """

    pid: int
    name: str
    args: tuple[str, ...]
    result: int


def read_calls(lines: Iterable[str]) -> Iterator[Call]:
    """Yield the calls that succeeded, in the order in which they ended."""
    begun: dict[int, str] = {}
    for line in lines:
        match = _LINE.match(line.rstrip("\n"))
        if match is None:
            continue
        pid, text = int(match[1]), match[2]
        if resumed := _RESUMED.match(text):
            text = begun.pop(pid, "") + resumed[1]
        elif text.endswith(_UNFINISHED):
            begun[pid] = text.removesuffix(_UNFINISHED)
            continue
        found = _CALL.match(text)
        if found is None or found[3].startswith("-") or found[3] == "?":
            continue
        yield Call(pid, found[1], tuple(_split(found[2])), int(found[3], 0))


def _split(text: str) -> Iterator[str]:
    """Split arguments at the commas that stand outside of brackets."""
    depth, start = 0, 0
    text = _COMMENT.sub("", text)
    for at, letter in enumerate(text) if len(text) < 10_000 else _commas(text):
        if letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and not depth:
            yield text[start:at].strip()
            start = at + 1
    if text[start:].strip():
        yield text[start:].strip()


def _commas(text: str) -> Iterator[tuple[int, str]]:
    for match in re.finditer(r"[][{}(),]", text):
        yield match.start(), match[0]


def string(text: str) -> bytes:
    """Return what a quoted argument stands for."""
    return bytes.fromhex(text.strip('"').replace("\\x", ""))


def number(text: str) -> int:
    """Return a number, of any base C has."""
    if len(text) > 1 and text[0] == "0" and text[1] not in "xX":
        return int(text, 8)
    return int(text, 0)
