"""Files that a browser sends, within limits: of size, number and time, of the disk, and of what a zip claims.

A file is stored under a number, in a folder under a number: no name that a browser gives becomes a path. What is in the
files does not matter here; `dicom` reads them within bounds of its own.
"""

import asyncio
import errno
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from src.dicom.archive import list_members
from src.errors import NotEnoughDisk, UserError
from src.viewer.archive_size import directory_size
from src.viewer.store import Store

_WRITE_BYTES = 1 << 20  # are written at once


@dataclass(frozen=True)
class Limits:
    """What an upload may take. idle_s: how long an unfinished one may say nothing; chunk_s: a file in the middle.

    directory_bytes, members, inflated_bytes: of one zip.
    """

    file_bytes: int = 4 << 30
    upload_bytes: int = 8 << 30
    files: int = 20_000
    open_uploads: int = 4
    idle_s: float = 120.0
    chunk_s: float = 30.0
    directory_bytes: int = 16 << 20
    members: int = 50_000
    inflated_bytes: int = 32 << 30


class Refused(Exception):  # noqa: N818 - it names what happened
    """A request that is refused. status: of HTTP; the text says why, for people."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Upload:
    """Files that come one by one. names: what people call them, by path."""

    id: str
    folder: Path
    touched: float
    names: dict[Path, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    size: int = 0
    files: int = 0
    receiving: int = 0
    closed: bool = False


class Uploads:
    """All unfinished uploads of a server, below a temporary folder. clock: seconds that only grow."""

    def __init__(self, store: Store, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self.limits, self._clock = store, limits, clock
        self._open: dict[str, Upload] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()

    def open(self) -> Upload:
        """Begin an upload. Raises Refused where there are too many."""
        self.sweep()
        with self._lock:
            if len(self._open) >= self.limits.open_uploads:
                raise Refused(429, f"{len(self._open)} uploads are under way; wait for the end of one")
            upload = Upload(secrets.token_urlsafe(12), self.store.folder / secrets.token_hex(8), self._clock())
            self._open[upload.id] = upload
        upload.folder.mkdir()
        return upload

    async def receive(self, upload_id: str, name: str, chunks: AsyncIterator[bytes], length: int | None) -> None:
        """Take one file. name: percent-encoded, with its folders; length: in bytes, where the browser states it.

        Raises Refused for whatever is beyond the limits; nothing of that file is left.
        """
        upload, path = self._place(upload_id, name, length or 0)
        came = [0]  # bytes
        try:
            with path.open("wb") as file:
                await self._write(upload, chunks, file.write, came)
            await asyncio.to_thread(self._check_archive, path, upload.names[path])
        except BaseException as error:  # also a browser that went away
            path.unlink(missing_ok=True)
            upload.names.pop(path, None)
            upload.size -= came[0]  # it may come again
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Refused(507, "no room in the temporary folder: remove studies from the list") from error
            raise
        finally:
            upload.receiving -= 1
            upload.touched = self._clock()

    def finish(self, upload_id: str) -> Upload:
        """Take an upload out, with all its files. Raises Refused where it has none, or one is still coming."""
        with self._lock:
            upload = self._find(upload_id)
            if upload.receiving:
                raise Refused(409, "a file is still coming")
            if not upload.names:
                raise Refused(422, "no files have come")
            upload.closed = True
            del self._open[upload_id]
        return upload

    def abort(self, upload_id: str) -> None:
        """End an upload and delete its files; one that is not there any more has ended already."""
        with self._lock:
            upload = self._open.pop(upload_id, None)
        if upload:
            self._delete(upload)

    def sweep(self) -> None:
        """Delete the uploads that have said nothing for too long: a tab was closed."""
        with self._lock:
            limit = self._clock() - self.limits.idle_s
            stale = [self._open.pop(each.id) for each in list(self._open.values()) if each.touched < limit]
        for upload in stale:
            self._delete(upload)

    def start(self, every_s: float) -> None:
        """Look every few seconds for uploads that were given up."""
        threading.Thread(target=self._sweep_until_closed, args=(every_s,), name="sweeper", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def discard(self, upload: Upload) -> None:
        """Delete the files of an upload that was taken out."""
        self._delete(upload)

    def _sweep_until_closed(self, every_s: float) -> None:
        while not self._closed.wait(every_s):
            self.sweep()

    def _delete(self, upload: Upload) -> None:
        upload.closed = True
        shutil.rmtree(upload.folder, ignore_errors=True)

    def _find(self, upload_id: str) -> Upload:
        """An upload that has not ended; for whoever holds the lock, so that it does not end meanwhile."""
        upload = self._open.get(upload_id)
        if upload is None:
            raise Refused(404, "this upload has ended; begin again")
        return upload

    def _place(self, upload_id: str, name: str, length: int) -> tuple[Upload, Path]:
        """An upload, and where its next file goes. Raises Refused where there is none, or no room for it."""
        limits = self.limits
        with self._lock:
            upload = self._find(upload_id)
            if len(upload.names) >= limits.files:
                raise Refused(413, f"more than {limits.files} files; send fewer at once, or as a zip")
            self._check_size(upload, 0, length)
            upload.files += 1
            upload.receiving += 1
            upload.touched = self._clock()
            number = upload.files
            try:
                shown = unquote(name, errors="replace")[-500:].replace("\\", "/").lstrip("/") or f"file {number}"
                # files without a UID of their study are told apart by their folders
                parent = str(PurePosixPath(shown).parent)
                folder = upload.folders.setdefault(parent, upload.folder / f"{len(upload.folders):05d}")
                folder.mkdir(exist_ok=True)
                self.store.require(length)
            except (OSError, NotEnoughDisk) as error:
                upload.receiving -= 1
                raise Refused(507, str(error)) from error
            path = folder / f"{number:06d}"
            upload.names[path] = shown
            return upload, path

    async def _write(
        self, upload: Upload, chunks: AsyncIterator[bytes], write: Callable[[bytes], int], came: list[int]
    ) -> None:
        coming, waiting = aiter(chunks), bytearray()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(coming), self.limits.chunk_s)
            except StopAsyncIteration:
                break
            except TimeoutError as error:
                raise Refused(408, f"nothing came for {self.limits.chunk_s:.0f} s") from error
            if upload.closed:
                raise Refused(410, "this upload was ended")
            self._check_size(upload, came[0], len(chunk))
            came[0] += len(chunk)
            upload.size += len(chunk)
            upload.touched = self._clock()
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(write, bytes(waiting))
                waiting.clear()
                self._check_disk()
        if waiting:
            await asyncio.to_thread(write, bytes(waiting))

    def _check_size(self, upload: Upload, of_file: int, more: int) -> None:
        if of_file + more > self.limits.file_bytes:
            raise Refused(413, f"a file of more than {_in_words(self.limits.file_bytes)}")
        if upload.size + more > self.limits.upload_bytes:
            raise Refused(413, f"more than {_in_words(self.limits.upload_bytes)} at once; send fewer files")

    def _check_disk(self) -> None:
        try:
            self.store.require(0)
        except NotEnoughDisk as error:
            raise Refused(507, str(error)) from error

    def _check_archive(self, path: Path, name: str) -> None:
        """Refuse a zip whose directory is larger than that of any study, or whose files would be.

        Members are read one at a time, each within bounds, so what is at stake is time, and the memory of a directory.
        """
        with path.open("rb") as file:
            if file.read(4) != b"PK\3\4":
                return
        if directory_size(path) > self.limits.directory_bytes:
            raise Refused(413, f"{name}: a zip with a directory of {_in_words(directory_size(path))}")
        try:
            members, unusual = list_members(path)
        except UserError:
            return  # a damaged one is listed with its reason when it is read
        if len(members) + len(unusual) > self.limits.members:
            raise Refused(413, f"{name}: a zip of more than {self.limits.members} files")
        if sum(each.size for each in members) > self.limits.inflated_bytes:
            raise Refused(413, f"{name}: a zip that inflates to more than {_in_words(self.limits.inflated_bytes)}")


def _in_words(size: int) -> str:
    return f"{size / (1 << 30):.0f} GB" if size >= 1 << 30 else f"{size / (1 << 20):.3g} MB"
