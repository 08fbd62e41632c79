"""One process works on a study at a time. Processes that only read are never kept waiting.

The operating system holds the lock (`flock`) and releases it when the process ends, however that
happens, so no lock outlives its process. The content of the file is for people to read.
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
except ImportError:  # Windows has no flock, so two processes are not told apart there
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(folder: StudyFolder) -> Iterator[None]:
    """Hold the study for this process. A new folder that stays empty is removed at the end.

    Raises:
        StudyError: another process works on the study.
        FolderError: the folder cannot be made.
    """
    new = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    file = _acquire(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.lock.unlink()
        file.close()
        with contextlib.suppress(OSError):  # the folder is not empty
            for path in new:
                path.rmdir()


def _acquire(folder: StudyFolder) -> IO[str]:
    """The lock's file; the lock is held while it is open."""
    while True:
        make_folder(folder.path)
        file = _opened(folder)
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise StudyError(
                    f"The study '{folder.path}' is being worked on by {_holder(file)}; wait for "
                    "it, or give this study another --study."
                ) from None
        except OSError:  # a file system without locks
            pass
        # The process that held the lock may have removed the file after it was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), folder.lock.stat()):
                break
        file.close()
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = {"process": os.getpid(), "machine": platform.node(), "since": since}
    file.write(json.dumps(holder) + "\n")
    file.flush()
    return file


def _opened(folder: StudyFolder) -> IO[str]:
    try:
        return folder.lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise StudyError(
            f"'{folder.lock}' cannot be opened ({error.strerror}); remove it, and give the same "
            "command again."
        ) from None


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['process']} on {holder['machine']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):  # it is being written
        return "another process"
