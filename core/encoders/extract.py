"""Features of many photos: in parts that are kept, so that a run that was stopped goes on.

    python -m core.encoders.extract --images DIR --encoder vgg16 --weights FILE --out features.h5
    torchrun --nproc_per_node 2 -m core.encoders.extract ...      each process takes its parts

The photos are cut into parts of 128. The features of each part go to a file of their own, whole or
not at all, and at the end all are joined; no more than a part is in memory at a time. What was done
when a run ends early, however rudely, is not done again, unless the photos have changed since.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from core.coco_utils.tables import Blocks, write_features
from core.encoders.photos import changed, left_out, open_all, read_hashed, refuse_unreadable, stamp
from core.support import processes
from core.support.choices import DEVICES, ENCODERS
from core.support.command_line import (
    ArgumentParser,
    non_negative_int,
    positive_int,
    progress,
    run_command,
)
from core.support.files import (
    atomic_file,
    read_json,
    reading,
    remove_folder,
    require_free,
    sweep,
    try_out,
    write_json,
)
from core.support.pytorch import require_torch

Array = np.ndarray

_PART = 128  # photos
_BATCH = 32
_MOST_TEXT = 2**24  # bytes, of the reasons why photos cannot be read


@dataclass(frozen=True)
class Extracted:
    """What ``extract`` has found.

    - kept: the numbers of the photos that could be read
    - skipped: for each other photo the reason
    - features: for each kind a table with a row for each photo that was kept
    - stamps, hashes: (n, 4), (n,) what tells for each photo whether it is still the same
    - explained: the share of the variance that a PCA of the features keeps; None without one
    """

    kept: list[int]
    skipped: list[str]
    features: dict[str, Blocks]
    stamps: Array
    hashes: Array
    explained: float | None = None

    @property
    def photos(self) -> list[tuple[int, int, str]]:
        """For each photo that was kept its size, the time of its last writing, and its hash."""
        rows = zip(self.stamps[self.kept].tolist(), self.hashes[self.kept].tolist(), strict=True)
        return [(size, written, found.decode()) for (size, written, *_), found in rows]


def extract(
    paths: Sequence[Path], extractors: Mapping, folder: Path, dtypes: Mapping, description: str
) -> Extracted | None:
    """Features of photos, in the files of a folder.

    Inputs:
    - paths: of the photos
    - extractors: for each kind of features its ``Extractor``; all by the same network
    - folder: where the parts go; those that are there already are kept while their photos are the
      same
    - dtypes: how each kind of features is stored
    - description: for the progress bar

    Of several processes each takes its parts; the first waits for all and returns the whole, the
    others return None.

    Raises ValueError when the folder holds parts of something else.
    """
    contents = {
        "photos": digest([str(path.resolve()) for path in paths]),
        "features": {k: [e.fingerprint, np.dtype(dtypes[k]).name] for k, e in extractors.items()},
    }
    files = [folder / f"{start:08}.npz" for start in range(0, len(paths), _PART)]
    if processes.rank() == 0:
        marker = folder / "contents.json"
        there = _contents(folder, marker)
        if there is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(marker, contents)
        elif there != contents:
            raise ValueError(
                f"{folder}: holds the beginning of another extraction (other photos, encoder or "
                "weights); finish that one with the same command, or remove the folder"
            )
    processes.wait_for_all()
    todo = range(processes.rank(), len(files), processes.number_of_processes())
    parts = {i: paths[i * _PART : (i + 1) * _PART] for i in todo}
    made = Parts({kind: e.shape for kind, e in extractors.items()}, dtypes)
    old = {i: made.changed_since(parts[i], files[i]) for i in todo if files[i].exists()}
    if others := sum(map(len, old.values())):
        again = sum(len(parts[i]) for i, of_part in old.items() if of_part)
        warnings.warn(
            f"{folder}: photos that have changed since they were looked at: {others:,}; with the "
            f"others of their parts {again:,} are looked at again",
            stacklevel=2,
        )
    with progress(None, description, total=sum(map(len, parts.values())), unit="photo") as bar:
        for i, part in parts.items():
            if i in old and not old[i]:
                bar.update(len(part))
            else:
                _extract_part(part, extractors, files[i], dtypes, bar)
    processes.wait_for_all()
    return _join(files, made) if processes.rank() == 0 else None


def _contents(folder: Path, marker: Path):
    """What the parts in a folder are of; None when there are none, or when that is lost.

    After a power cut a file may be empty that was written before.
    """
    if not os.path.lexists(marker):
        return None
    try:
        return read_json(marker)
    except (ValueError, OSError):
        warnings.warn(
            f"{marker}: is damaged, so nobody knows what the features beside it are of; they are "
            "made again",
            stacklevel=3,
        )
        shutil.rmtree(folder)
        return None


@dataclass(frozen=True)
class Parts:
    """Reads the files of parts, and knows what must be in them."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping

    def read(self, file: Path, count: int = _PART) -> dict[str, Array]:
        """The arrays of a file of at most ``count`` photos, each as it was written.

        Raises ValueError for a damaged file.
        """
        mend = "remove it, and start the same command again"
        most = sum(math.prod(shape) * 8 for shape in self.shapes.values()) * _PART + _MOST_TEXT
        with reading(file, "part of an extraction", mend), zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > most:
                raise ValueError("it is larger than a part can be")
            with np.load(file, allow_pickle=False) as part:
                found = {name: part[name] for name in part.files}
            kept, photos = found["kept"], len(found["stamps"])
            expected = {
                "kept": (kept.shape[:1], "i"),
                "skipped": ((photos - len(kept),), "U"),
                "stamps": ((photos, 4), "i"),
                "hashes": ((photos,), "S"),
            }
            if len(kept):
                expected |= {k: ((len(kept), *shape), "f") for k, shape in self.shapes.items()}
            for name, (shape, letter) in expected.items():
                array = found[name]
                if array.shape != shape or array.dtype.kind != letter:
                    raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {shape}")
                if name in self.dtypes and array.dtype != self.dtypes[name]:
                    raise ValueError(f"{name} is {array.dtype}, expected {self.dtypes[name]}")
            if (
                photos > count
                or not np.isin(kept, np.arange(photos)).all()
                or len(np.unique(kept)) < len(kept)
            ):
                raise ValueError("kept numbers other photos than there are")
            return found

    def changed_since(self, paths: Sequence[Path], file: Path) -> list[int]:
        """The photos of a part, by number, that are not what they were when its file was written.

        All of them when the file is damaged, or of a version that did not know the hashes.
        """
        try:
            part = self.read(file)
            if len(part["stamps"]) != len(paths):
                raise ValueError(f"{file}: is of {len(part['stamps'])} photos, not {len(paths)}")
        except (ValueError, OSError) as error:
            warnings.warn(f"{error}; its {len(paths):,} photos are looked at again", stacklevel=4)
            return list(range(len(paths)))
        return changed(paths, part["stamps"], part["hashes"])


def _extract_part(paths: Sequence[Path], extractors, file: Path, dtypes, bar) -> None:
    from core.image_utils import load_image

    kept, skipped, stamps, hashes = [], [], [], []
    rows: dict[str, list[Array]] = {kind: [] for kind in extractors}
    for start in range(0, len(paths), _BATCH):
        batch, photos = paths[start : start + _BATCH], []
        for number, path in enumerate(batch, start):
            stamps.append(stamp(path))  # before it is read: what comes later is a change
            content, found = read_hashed(path)
            hashes.append(found)
            try:
                photos.append(load_image(path, content=content))
                kept.append(number)
            except (OSError, ValueError) as error:
                skipped.append(str(error))
        if photos:
            outputs = next(iter(extractors.values())).encode(photos)
            for kind, extractor in extractors.items():
                rows[kind].append(extractor.finish(outputs).astype(dtypes[kind]))
        bar.update(len(batch))
    tables = {kind: np.concatenate(several) for kind, several in rows.items() if several}
    with atomic_file(file) as temporary:
        np.savez(
            temporary,
            kept=np.array(kept, int),
            skipped=np.array(skipped, str),
            stamps=np.array(stamps, np.int64),
            hashes=np.array(hashes, "S64"),
            **tables,
        )


def _join(files: Sequence[Path], made: Parts) -> Extracted:
    kept: list[int] = []
    skipped: list[str] = []
    stamps, hashes = [np.empty((0, 4), np.int64)], [np.empty(0, "S64")]
    for i, file in enumerate(files):
        part = made.read(file)
        kept += (part["kept"] + i * _PART).tolist()
        skipped += part["skipped"].tolist()
        stamps.append(part["stamps"])
        hashes.append(part["hashes"])

    def blocks(kind: str) -> Iterator[Array]:
        for file in files:
            part = made.read(file)
            if kind in part:
                yield part[kind]

    def table(kind: str) -> Blocks:
        shape = len(kept), *made.shapes[kind]
        return Blocks(shape, np.dtype(made.dtypes[kind]), lambda: blocks(kind))

    features = {kind: table(kind) for kind in made.shapes}
    return Extracted(kept, skipped, features, np.concatenate(stamps), np.concatenate(hashes))


def require_free_of_parts(out: Path, parts: Path, file: bool = False) -> None:
    """Refuses an ``out`` that is taken or cannot be written, before any work is done.

    The parts of one that is there already (its process was killed while it cleaned up) are removed.

    Raises FileExistsError, ValueError.
    """
    sweep(out)
    try:
        if file and out.exists():
            raise FileExistsError(f"{out}: is there already; remove it, or choose another name")
        require_free(out)
    except FileExistsError as error:
        remove_folder(parts)
        raise FileExistsError(f"--out {error}") from error
    if processes.rank() == 0:
        try_out("--out", out)


def require_names_in_utf8(names: Iterable[str]) -> None:
    """Raises ValueError for the name of a photo that cannot be written into the data."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{name!r}: the name of this photo is not text in UTF-8, which what is written has "
                "to name it in; rename it (convmv -f latin1 -t utf8 does that for many)"
            ) from None


def require_space(folder: Path, extractors: Mapping, dtypes: Mapping, count: int) -> None:
    """Raises OSError unless the features fit on the disk: twice, for they are joined at the end."""
    row = sum(math.prod(e.shape) * np.dtype(dtypes[k]).itemsize for k, e in extractors.items())
    needed, free = 2 * count * row, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder}: has {free / 2**30:.1f} GiB free, the features of {count:,} photos need "
            f"{needed / 2**30:.1f} GiB; take a coarser --grid, or fewer photos"
        )


def digest(value) -> str:
    """Of a JSON value: the same for the same value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def extract_folder(
    images: str | Path,
    out: str | Path,
    encoder: str,
    weights: str,
    pca: int | None = None,
    grid: int | None = None,
    device: str = "cpu",
) -> Extracted | None:
    """The features of all photos of a folder, in an HDF5 file.

    Inputs:
    - images: the folder
    - out: the file: ``features`` (n, ...), the ``names`` (n,) of the files below the folder, the
      ``extractor`` that made them as JSON, and its PCA
    - encoder, weights, device: as for ``Extractor``
    - pca: components of a PCA that is fitted on these photos, of a grid on all its cells; 0: none;
      when None 512, of a grid none
    - grid: instead of one vector per photo, a grid of this many cells a side in float16; 0: the
      encoder's own

    Returns what was found; None in all processes but the first.

    Raises FileExistsError when the file is there already, ValueError for too few photos, and when
    too many cannot be read.
    """
    from core.encoders import OUTPUTS, Extractor
    from core.encoders.pca import fit_pca
    from core.image_utils import list_pictures

    out = Path(out)
    parts = out.with_name(f".{out.name}.parts")
    require_free_of_parts(out, parts, file=True)
    paths = list_pictures(images)
    require_names_in_utf8(str(path.relative_to(images)) for path in paths)
    pca = (512 if grid is None else 0) if pca is None else pca
    if grid is None and pca >= len(paths):
        raise ValueError(
            f"--pca {pca}: needs more photos than components, found {len(paths)}; take fewer "
            "components, or 0 for none"
        )
    output = next(iter(OUTPUTS[encoder])) if grid is None else "grid"
    if pca > (width := OUTPUTS[encoder][output][-1]):
        raise ValueError(
            f"--pca {pca}: the output {output!r} of {encoder} is {width} wide, expected no more "
            "components; take fewer, or 0 for none"
        )
    extractor = Extractor(encoder, output, weights, grid=grid or None, device=device)
    dtypes = {"features": np.float32 if grid is None else np.float16}
    out.parent.mkdir(parents=True, exist_ok=True)
    require_space(out.parent, {"features": extractor}, dtypes, len(paths))
    open_all({"--images": paths}, Path(images), device)
    found = extract(paths, {"features": extractor}, parts, dtypes, f"features by {encoder}")
    if found is None:
        return None
    refuse_unreadable({"--images": found.skipped}, {"--images": len(paths)}, Path(images))
    table = found.features["features"]
    if pca:
        extractor.pca = fit_pca(table if grid is None else table.cells(), pca)
        table = table.project(extractor.pca)
        found = replace(found, explained=extractor.pca.explained)
    names = [paths[i].relative_to(images).as_posix() for i in found.kept]
    with atomic_file(out) as temporary:
        specification = json.dumps(extractor.specification)
        write_features(temporary, table, names=names, extractor=specification, **extractor.arrays)
    remove_folder(parts)
    return found


def add_encoder_options(parser: ArgumentParser, grid: str) -> None:
    """The options that say what looks at the photos; ``grid`` is what --grid is for."""
    parser.add_argument(
        "--encoder",
        choices=ENCODERS,
        default="squeezenet1_1",
        help="what looks at the photos; mobilenet_v2 is the best for a laptop",
    )
    parser.add_argument(
        "--weights", default="download", metavar="FILE", help="a state dict, or 'random'"
    )
    parser.add_argument(
        "--grid",
        type=positive_int,
        nargs="?",
        const=0,
        metavar="G",
        help=f"{grid}; averaged to G x G cells if given",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")


def main() -> None:
    parser = ArgumentParser(
        prog="python -m core.encoders.extract", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="a folder with photos")
    parser.add_argument("--out", required=True, metavar="FILE.h5", help="the file to make")
    add_encoder_options(parser, "a grid of locations instead of one vector")
    parser.add_argument(
        "--pca",
        type=non_negative_int,
        metavar="K",
        help="components; 0: none (default: 512; of a grid: none)",
    )
    options = vars(parser.parse_args())
    from core.image_utils import other_files

    require_torch(f"--encoder {options['encoder']}")
    with processes.joined(options.pop("device")) as device:
        found = extract_folder(**options, device=device)
    if found:
        if found.skipped:
            print(left_out(found.skipped, len(found.kept) + len(found.skipped)))
        if others := other_files(options["images"]):
            print(others)
        if found.explained is not None:
            print(f"PCA: keeps {found.explained:.1%} of the variance")
        with h5py.File(options["out"]) as file:
            print(f"{options['out']}: {file['features'].shape} {file['features'].dtype}")


if __name__ == "__main__":
    run_command(main)
