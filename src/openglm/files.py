"""Writing files so that a crash at any moment leaves either the old or the new content.

The one way in which every command writes: under a private name beside the target, never an
existing file's; through symbolic links; onto regular files and new names only. What a
command writes record by record (`OutputFile`) is locked against a second writer and can be
gone on from after a crash.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from .errors import OutputError

STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_OPEN_STREAMS = ("/dev/fd/", "/dev/std", "/proc/")
COMMIT_SECONDS = 1.0  # of work that a crash may cost
# Errors of the place that is written to, as opposed to those of a file that is read meanwhile.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def cannot_write(path: str | Path, reason: OSError | str) -> OutputError:
    """The error for a place that cannot be written to."""
    text = str((reason.strerror or reason) if isinstance(reason, OSError) else reason)
    return OutputError(f"{path}: cannot be written ({text})", text)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable (where the system can)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def target_of(path: str | Path) -> Path:
    """The file that writing to `path` would change: a new name, or a regular file; links are followed.

    Raises:
        OutputError: something else stands there, or it must not be written.
    """
    if str(path).startswith(_OPEN_STREAMS):
        raise cannot_write(path, "it is a stream of this process; give the name of a file, or - for standard output")
    real = Path(os.path.realpath(path))
    try:
        mode = real.stat().st_mode
    except FileNotFoundError:
        return real
    except OSError as error:
        raise cannot_write(path, error) from error
    if not stat.S_ISREG(mode):
        what = next((name for test, name in _KINDS if test(mode)), "a device")
        raise cannot_write(path, f"it is {what}, not a regular file; give the name of a file")
    if not os.access(real, os.W_OK):
        raise cannot_write(path, "the file there is read-only")
    return real


def folder_for(path: Path, *, ours: Iterable[str] = ()) -> Path:
    """A folder to write into: a new one, which is made, an empty one, or one of earlier work.

    Args:
        ours: names of files that only earlier work of the same kind leaves there.

    Raises:
        OutputError: a folder that holds other files, or something that is no folder.
    """
    if path.exists() and not path.is_dir():
        raise cannot_write(path, "a file is there; give the name of a folder")
    with _naming(path):
        path.mkdir(parents=True, exist_ok=True)
        found = set(os.listdir(path))
    if found and not found & set(ours):
        raise cannot_write(path, "the folder holds other files; give the name of a new or an empty one")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it into place.

    Raises:
        OutputError: something else than a regular file stands there, it is read-only, or the disk is full.
    """
    target = target_of(path)
    with _naming(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_private(target.name), suffix=".part", dir=target.parent)
        os.close(handle)
    part = Path(name)
    try:
        with _naming(path, only=_OF_WRITING):
            yield part
        with _naming(path):
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            _put(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` by way of a temporary file, sync and rename. Raises as `replacing`."""
    with replacing(path) as part:
        part.write_bytes(content)


def lock_file(file: IO[Any], *, inherited: bool = True) -> bool:
    """Lock an open file until it is closed or the process ends, however it ends.

    Args:
        inherited: whether processes forked from this one hold the lock with it.

    Returns:
        Whether nobody else holds it; True as well where system or file system have no locks.
    """
    try:
        import fcntl

        (fcntl.flock if inherited else fcntl.lockf)(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        pass
    return True


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file (hex)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def same_file(path: str | Path, other: str | Path) -> bool:
    """Whether two names, links followed, are one existing file."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


@contextmanager
def _naming(path: str | Path, only: set[int] | None = None) -> Iterator[None]:
    """Errors of the system as an OutputError that names `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise cannot_write(path, error) from error


def _put(part: Path, target: Path) -> None:
    """Give a finished file its name, with the permissions of the file it replaces or a new one's."""
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
    part.chmod(mode)
    part.replace(target)
    sync_folder(target.parent)


def _private(name: str) -> str:
    """The beginning of a hidden name; without the file's own where that would be too long."""
    return f".{name}." if len(os.fsencode(name)) < 200 else "."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- what a command writes record by record ------------------------------------------------


class OutputFile:
    """A text stream for a command's records: standard output, or a file that takes its name when complete.

    Until then records lie in a hidden folder beside it, `.NAME.openglm-part`, with a journal of how
    many are complete. A command with the same identity goes on from there.

    Args:
        path: where to; None or a name of standard output for that.
        identity: what the records depend on (input, options, model): equal identities give
            equal records. None for what cannot be repeated: then nothing is gone on from.

    Attributes:
        done: complete records that are there already.
        to_file: whether it is a file, not standard output.

    Raises:
        OutputError: the target is not a regular file, cannot be written, or is being written by
            another process; or an unfinished output of another identity is there.
    """

    def __init__(self, path: str | None, *, identity: str | None = None) -> None:
        self.path, self._identity = path, identity
        self.to_file = path is not None and path not in STANDARD_OUTPUT
        self.done = self._written = self._safe = 0  # records: found, written, in the journal
        self._size = self._whole = 0  # bytes, in all and of complete records
        self._committed = time.monotonic()

    def __enter__(self) -> OutputFile:
        if not self.to_file or self.path is None:
            return self
        self._target = target_of(self.path)
        self._folder = self._target.parent / f"{_private(self._target.name)}openglm-part"
        with _naming(self.path):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            try:
                self._open()
            except BaseException:
                self._lock.close()
                raise
        return self

    def write(self, text: str, *, records: int = 0) -> None:
        """Write text that completes so many records; half of a surrogate pair as JSON's escape of it."""
        if not self.to_file:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        with _naming(self.path or "", only=_OF_WRITING):
            self._size += self._file.write(text.encode("utf-8", "backslashreplace"))
            if records:
                self._written, self._whole = self._written + records, self._size
                if time.monotonic() - self._committed >= COMMIT_SECONDS:
                    self._commit()

    def isatty(self) -> bool:
        """Whether people read it at a terminal."""
        return not self.to_file and sys.stdout.isatty()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.to_file or self.path is None:
            return
        try:
            if kind is None:
                with _naming(self.path):
                    self._commit()
                    self._file.close()
                    _put(self._folder / "output", self._target)
                self._remove()
            else:
                self._keep()
        finally:
            with suppress(OSError):  # a full disk, met again when flushing
                self._file.close()
            self._lock.close()

    def _locked(self) -> IO[bytes]:
        """The folder's lock, in a folder that is there and nobody else's."""
        while True:
            try:
                self._folder.mkdir()
            except FileExistsError:
                self._check_ours()
            path = self._folder / "lock"
            try:
                file = path.open("ab")
            except FileNotFoundError:  # the process before has just finished
                continue
            if not lock_file(file):
                file.close()
                raise cannot_write(self.path or "", "another process is writing it; wait for it, or give another name")
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            file.close()  # of a folder that has gone meanwhile

    def _check_ours(self) -> None:
        known = {"lock", "output", "journal.json"}
        if not self._folder.is_dir() or any(not _is_known(each.name, known) for each in self._folder.iterdir()):
            raise cannot_write(self.path or "", f"{self._folder} is in the way, and not openglm's; move it")

    def _open(self) -> None:
        """Go on from what the journal says is complete, or begin."""
        output, size = self._folder / "output", 0
        try:
            journal = json.loads((self._folder / "journal.json").read_text(encoding="utf-8"))
            done, size, identity = int(journal["records"]), int(journal["bytes"]), journal["identity"]
            whole = output.stat().st_size >= size
        except (OSError, ValueError, KeyError, TypeError):
            done, size, identity, whole = 0, 0, None, True
        if done and (not whole or identity is None or identity != self._identity):
            raise cannot_write(
                self.path or "",
                f"{self._folder} holds an unfinished output of other inputs or options, {done} records; "
                "repeat that command to finish it, or remove that folder",
            )
        with output.open("ab") as file:
            file.truncate(size if done else 0)
        self.done = self._written = self._safe = done
        self._size = self._whole = size if done else 0
        self._file: BinaryIO = output.open("ab")

    def _commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        journal = {"identity": self._identity, "records": self._written, "bytes": self._whole}
        write_atomically(self._folder / "journal.json", json.dumps(journal).encode())
        self._committed, self._safe = time.monotonic(), self._written

    def _keep(self) -> None:
        """After a failure: what is complete stays, and standard error says where."""
        with suppress(OSError):  # a full disk: then the journal's last entry counts
            self._commit()
        if not self._safe:
            self._remove()
        elif self._identity is not None:
            print(f"openglm: {self._safe} records are kept; the same command goes on from there", file=sys.stderr)
        else:
            handle, name = tempfile.mkstemp(prefix=f"{self._target.name[:80]}.part-", dir=self._target.parent)
            os.close(handle)
            os.truncate(self._folder / "output", self._whole)
            (self._folder / "output").replace(name)
            self._remove()
            print(f"openglm: {self._written} records, what was done so far, are in {name}", file=sys.stderr)

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_known(name: str, known: set[str]) -> bool:
    return name in known or name.startswith(".journal.json.")
