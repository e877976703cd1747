"""Where corpus files lie: names and patterns, on this machine or at any fsspec address.

`s3://bucket/en/*.parquet`, `https://...`, `memory://...`: whatever fsspec can open. fsspec
is imported only when an address asks for it. Knows nothing about what the files hold.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from ..errors import DataError

TEXT, JSON_LINES, PARQUET = "text", "json lines", "parquet"
KINDS = {".txt": TEXT, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".json": JSON_LINES, ".parquet": PARQUET}
COMPRESSED = (".gz", ".zst")
_BUFFER = 1 << 20  # bytes read at once from a remote file


def is_remote(address: str | Path) -> bool:
    """Whether fsspec has to open this address."""
    return isinstance(address, str) and "://" in address and not address.startswith("file://")


def file_name(address: str | Path) -> str:
    """The name of the file, without folders, protocol and query."""
    if not is_remote(address):
        return _local(address).name
    parts = str(address).split("::")  # fsspec chains: zip://inside.txt::s3://bucket/outside.zip
    inner = next((part for part in parts if "://" in part and not part.endswith("://")), parts[-1])
    path = urlsplit(inner).path if inner.startswith(("http://", "https://")) else inner
    return path.rstrip("/").rpartition("/")[2]


def kind_of(address: str | Path) -> str | None:
    """`TEXT`, `JSON_LINES` or `PARQUET` by the last known suffix of the name; None without any."""
    suffixes = Path(file_name(address).lower()).suffixes
    return next((KINDS[suffix] for suffix in reversed(suffixes) if suffix in KINDS), None)


def expand(addresses: str | Path | Iterable[str | Path]) -> list[str]:
    """The files meant by names, patterns and folders; sorted, each once.

    A pattern may hold `*`, `?`, `[...]` and `**`. A folder stands for the files in it whose
    names say that they are text, JSON Lines or Parquet (not for those in its subfolders).

    Raises:
        DataError: a file that does not exist, a pattern or folder without files, or a remote
            address that cannot be reached.
    """
    if isinstance(addresses, (str, Path)):
        addresses = [addresses]
    found: set[str] = set()
    for address in addresses:
        files = _remote_files(str(address)) if is_remote(address) else _local_files(address)
        if not files:
            raise DataError(
                f"{address}: no files here; give existing {', '.join(KINDS)} files "
                f"(text and JSON Lines also as {' or '.join(COMPRESSED)}), a folder of them, or a pattern"
            )
        found.update(files)
    if not found:
        raise DataError("no corpus files given")
    return sorted(found)


def open_binary(address: str | Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        DataError: no such file, or a remote address that cannot be opened.
        OSError: a local file that cannot be opened.
    """
    if not is_remote(address):
        path = _local(address)
        if not path.is_file():
            raise _missing(address)
        return path.open("rb")
    system, path_there = file_system(str(address))
    try:
        return cast(BinaryIO, _Remote(system, path_there))
    except Exception as error:
        raise _unreachable(address, error) from error


def size_of(address: str | Path) -> int | None:
    """Size in bytes; None where a server does not tell.

    Raises:
        DataError: no such file.
    """
    try:
        if not is_remote(address):
            return _local(address).stat().st_size
        system, path = file_system(str(address))
        size = system.size(path)
    except DataError:
        raise
    except Exception as error:
        raise _unreachable(address, error) from error
    return None if size is None else int(size)


def changed_at(address: str | Path) -> int | None:
    """When a local file was last changed, in nanoseconds; None for a remote one."""
    return None if is_remote(address) else _local(address).stat().st_mtime_ns


class _Remote(io.BufferedReader):
    """A file of an fsspec file system; lines out of fsspec's own buffer would be slow."""

    def __init__(self, system: Any, path: str) -> None:
        super().__init__(system.open(path, "rb"), _BUFFER)
        self._system = system  # archives close their files when they are collected


def _local(address: str | Path) -> Path:
    return Path(str(address).removeprefix("file://"))


def _missing(address: str | Path) -> DataError:
    where = ", or its server cannot be reached" if is_remote(address) else ""
    return DataError(f"{address}: no such file{where}; give existing {', '.join(KINDS)} files")


def _unreachable(address: str | Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return _missing(address)
    if isinstance(error, ImportError):  # fsspec's text names the package that is missing
        return DataError(f"{address}: {error} (with pip install)")
    return DataError(f"{address}: cannot be read ({type(error).__name__}: {error})")


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, local ones too, and the path in it. Raises DataError."""
    try:
        import fsspec
    except ImportError as error:
        raise DataError(f"{address}: remote files need the fsspec package: pip install fsspec") from error
    try:
        system, path = fsspec.core.url_to_fs(address)
    except Exception as error:
        raise _unreachable(address, error) from error
    return system, path


def _local_files(address: str | Path) -> list[str]:
    path = _local(address)
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        inside = (entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file())
        return [str(entry) for entry in inside if kind_of(entry)]
    if glob.has_magic(str(path)):
        return [name for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)]
    raise _missing(address)


def _remote_files(address: str) -> list[str]:
    head, chain, rest = address.partition("::")
    system, path = file_system(address)
    # In the address of a web page `?` begins the query.
    signs = "*[" if head.startswith(("http://", "https://")) else "*?["
    pattern, known = any(sign in head for sign in signs), kind_of(address) is not None
    try:
        if not pattern and (known or not system.isdir(path)):
            if not system.exists(path):
                raise _missing(address)
            return [address]
        entries = system.glob(path, detail=True).values() if pattern else system.ls(path, detail=True)
        files = [entry["name"] for entry in entries if entry.get("type") != "directory"]
    except DataError:
        raise
    except Exception as error:
        raise _unreachable(address, error) from error
    names = [str(system.unstrip_protocol(name)) + chain + rest for name in files]
    return names if pattern else [name for name in names if kind_of(name)]
