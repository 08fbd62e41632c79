"""One process works on a study at a time; whoever reads it is never kept waiting.

The system holds the lock (`flock`) and lets go of it when the process ends, however that happens, so no lock outlives
its process. What stands in the file is for people to read.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from typing import IO

from rung.atomic import make_folder
from rung.errors import StudyError
from rung.study.folder import StudyFolder

try:
    import fcntl
except ImportError:  # Windows has no flock, and there two processes are not told apart
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(folder: StudyFolder) -> Iterator[None]:
    """Have the study to oneself. A new folder that nothing was written to is gone afterwards.

    Raises:
        StudyError: another process works on it.
        FolderError: the folder cannot be made.
    """
    new = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    file = _held(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.lock.unlink()
        file.close()
        with contextlib.suppress(OSError):  # there is something in it
            for path in new:
                path.rmdir()


def _held(folder: StudyFolder) -> IO[str]:
    """The file of the lock, which is ours while it is open."""
    while True:
        make_folder(folder.path)
        try:
            file = folder.lock.open("a+", encoding="utf-8")
        except OSError as error:
            raise StudyError(
                f"'{folder.lock}' cannot be opened ({error.strerror}); take it away, and give the same command again."
            ) from None
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise StudyError(
                    f"The study '{folder.path}' is being worked on by {_who(file)}; wait for it, or give this one a "
                    "--study of its own."
                ) from None
        except OSError:  # a file system without locks
            pass
        # Whoever had it may have taken the file away after it was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), folder.lock.stat()):
                break
        file.close()
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(
        json.dumps({"process": os.getpid(), "machine": platform.node(), "since": since}) + "\n"
    )
    file.flush()
    return file


def _who(file: IO[str]) -> str:
    file.seek(0)
    try:
        found = json.loads(file.read())
        return f"process {found['process']} on {found['machine']}, since {found['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):  # it is being written
        return "another process"
