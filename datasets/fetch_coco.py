"""Fetches the published COCO captioning archive and unpacks it to datasets/coco_captioning.

    python datasets/fetch_coco.py
    python datasets/fetch_coco.py --archive coco_captioning.zip      when it is already here

The archive is that of Stanford's course CS231n: captions and VGG16 features of MS COCO 2014 (Lin et
al., ECCV 2014). A download that breaks off is resumed by the next call.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where core is

from core.coco_utils import CAPTIONS_FILE, DEFAULT_FOLDER, VOCABULARY_FILE
from core.coco_utils.folder import VOCABULARY
from core.coco_utils.tables import dataset_in, open_h5
from core.support.command_line import ArgumentParser, progress, run_command
from core.support.files import atomic_folder, read_json, reading, require_free, try_out

URL = "http://cs231n.stanford.edu/coco_captioning.zip"
ARCHIVE_NAME = "coco_captioning.zip"
_BLOCK = 2**20
_TIMEOUT = 30  # seconds without an answer
_SLOWEST = 1000  # bytes a second, on average: such a download takes 12 days
_LARGEST = 4 * 10**9  # bytes: the published archive has 1.0e9, unpacked 2.3e9
# What the archive holds: the shape of each dataset in each HDF5 file.
CONTENTS = {
    CAPTIONS_FILE: {
        "train_captions": (400135, 17),
        "train_image_idxs": (400135,),
        "val_captions": (195954, 17),
        "val_image_idxs": (195954,),
    },
    "train2014_vgg16_fc7.h5": {"features": (82783, 4096)},
    "train2014_vgg16_fc7_pca.h5": {"features": (82783, 512)},
    "val2014_vgg16_fc7.h5": {"features": (40504, 4096)},
    "val2014_vgg16_fc7_pca.h5": {"features": (40504, 512)},
}
_TEXT_FILES = (VOCABULARY_FILE, "train2014_urls.txt", "val2014_urls.txt")
_VOCABULARY_SIZE = 1004


def download(url: str, archive: Path) -> None:
    """Fetches ``url`` to ``archive``, going on with ``archive.part`` if it is there.

    Raises ValueError when the address does not answer, when the disk is too small, or when fewer
    bytes came than were announced.
    """
    part = archive.with_name(archive.name + ".part")
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            if answer.status != 206:  # the server sends all of it again
                start = 0
            length = answer.headers.get("Content-Length")
            total = start + int(length) if (length or "").isdecimal() else None
            if total is not None and total > _LARGEST:
                raise ValueError(_too_large(url, f"announces {total:,} bytes"))
            require_space(archive.parent, 0 if total is None else total - start, url)
            with open(part, "ab" if start else "wb") as file:
                bar = progress(None, "downloading", total, unit="B", unit_scale=True, initial=start)
                came, since = start, time.monotonic()
                while block := answer.read1(_BLOCK):
                    came += len(block)
                    if came > (_LARGEST if total is None else total):
                        raise ValueError(_too_large(url, f"sends more than {came:,} bytes"))
                    file.write(block)
                    bar.update(len(block))
                    slowest = (time.monotonic() - since - _TIMEOUT) * _SLOWEST
                    if came - start < slowest:
                        raise TimeoutError(f"{came:,} bytes came in {_TIMEOUT} seconds and more")
                bar.close()
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send, the part is whole
            raise ValueError(_unreachable(url, error)) from error
        total = start
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(_unreachable(url, error)) from error
    found = part.stat().st_size
    if total is not None and found != total:
        raise ValueError(
            f"{url}: {found:,} of {total:,} bytes came; run the same command again to go on"
        )
    part.replace(archive)


def _too_large(url: str, found: str) -> str:
    return (
        f"{url}: {found}, expected {ARCHIVE_NAME} of about 1 GB; remove "
        f"{ARCHIVE_NAME}.part, and look for the archive elsewhere"
    )


def _unreachable(url: str, error: Exception) -> str:
    return (
        f"{url}: does not answer ({error}); try again later (what has come is kept), or look for "
        f"{ARCHIVE_NAME} of the course CS231n elsewhere and give it with --archive FILE or --url"
    )


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raises ValueError when the disk of ``folder`` has fewer than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder}: has {free / 1e9:.1f} GB free, but {purpose} needs {needed / 1e9:.1f} GB; "
            "make room, or choose another disk with --out"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks and verifies the archive; the folder appears whole or not at all.

    Raises ValueError for a torn archive, for a path in it that leaves the folder, and for contents
    that are not those of the published archive.
    """
    with atomic_folder(folder) as temporary:
        _unpack_into(archive, temporary)
        try:
            verify(temporary)
        except ValueError as error:
            raise ValueError(
                f"{archive}: {str(error).replace(f'{temporary}{os.sep}', '')}"
            ) from error


def _unpack_into(archive: Path, folder: Path) -> None:
    mend = "remove it and fetch it again"
    with reading(archive, "zip archive", mend), zipfile.ZipFile(archive) as zipped:
        members = [member for member in zipped.infolist() if not member.is_dir()]
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"{archive}: {member.filename!r} is compressed in another way than the "
                    "published archive; fetch that one"
                )
        needed = sum(member.file_size for member in members)
        if needed > _LARGEST:
            raise ValueError(
                f"{archive}: unpacks to {needed / 1e9:,.1f} GB, expected at most "
                f"{_LARGEST / 1e9:.1f}; is it the right archive?"
            )
        require_space(folder, needed, f"unpacking {archive.name}")
        names = {member.filename: _safe_name(archive, member.filename) for member in members}
        with progress(None, "unpacking", needed, unit="B", unit_scale=True) as bar:
            for member in members:
                target = folder / names[member.filename]
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as source, open(target, "wb") as file:
                    while block := source.read(_BLOCK):
                        file.write(block)
                        bar.update(len(block))


def _safe_name(archive: Path, name: str) -> str:
    """The member's path without the archive's own top folder; refuses one that leads outside."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise ValueError(
            f"{archive}: holds the path {name!r}, which leaves the folder; not unpacked"
        )
    parts = path.parts[1:] if len(path.parts) > 1 else path.parts
    return str(PurePosixPath(*parts))


def verify(folder: Path) -> None:
    """Compares a folder with ``CONTENTS``; raises ValueError that names the first difference."""
    for name in (*CONTENTS, *_TEXT_FILES):
        if not (folder / name).is_file():
            raise ValueError(f"{name}: is missing from the archive; is it the right one?")
    for name, datasets in CONTENTS.items():
        with open_h5(folder / name) as file:
            for key, shape in datasets.items():
                found = dataset_in(folder / name, file, key).shape
                if found != shape:
                    raise ValueError(f"{name}: {key} is {found}, expected {shape}")
    words = len(read_json(folder / VOCABULARY_FILE, VOCABULARY)["idx_to_word"])
    if words != _VOCABULARY_SIZE:
        raise ValueError(f"{VOCABULARY_FILE}: has {words} words, expected {_VOCABULARY_SIZE}")


def main() -> None:
    parser = ArgumentParser(prog="datasets/fetch_coco.py", description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="DIR", default=str(DEFAULT_FOLDER), help="data folder")
    parser.add_argument("--archive", metavar="FILE", help="a copy that is already here")
    parser.add_argument("--url", default=URL, help="another address of the archive")
    options = parser.parse_args()
    folder = Path(options.out)
    require_free(folder)
    try_out("--out", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = Path(options.archive) if options.archive else folder.parent / ARCHIVE_NAME
    if options.archive and not archive.is_file():
        raise FileNotFoundError(f"--archive {archive}: no such file")
    if not archive.is_file():
        download(options.url, archive)
    unpack(archive, folder)
    if not options.archive:
        archive.unlink()
    print(f"COCO captions and features: {folder}")
    print(f"next: python training.py --model lstm --data {shlex.quote(str(folder))}")


if __name__ == "__main__":
    run_command(main)
