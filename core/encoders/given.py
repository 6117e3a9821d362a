"""Features that another program made of photos, whatever network it has: a row for each file name.

In the form that ``core.encoders.extract`` writes: an HDF5 file with ``features``, (n, D) or
(n, L, C) in float16 or float32, and the ``names`` (n,) of the files; what made them in
``extractor``, as a JSON object. A decoder reads them as it reads those of our own encoders: a grid
is scaled picture by picture, its mean serves as the one vector, and a PCA is fitted here.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import h5py
import numpy as np

from core.coco_utils.tables import Blocks, Rows, dataset_in, open_features, open_h5, write_features
from core.encoders.extract import Extracted, require_names_in_utf8
from core.encoders.extractor import scale_grid
from core.encoders.pca import PCA
from core.encoders.photos import (
    find_unreadable,
    left_out,
    read_hashed,
    refuse_unreadable,
    stamp,
)
from core.image_utils import list_pictures, load_image, other_files
from core.photos.folder import Names
from core.support.choices import GIVEN
from core.support.command_line import ArgumentParser, progress
from core.support.files import atomic_file, parse_json, try_out
from core.support.schema import Whole, shown

Array = np.ndarray

_BLOCK, _AT_ONCE = 128, 16  # photos that are read, and looked at
_SIZE = Whole(1, 10_000)
_USUAL_SIZE = 224  # pixels a side of what most networks see, to draw maps on


class GivenExtractor:
    """What takes the place of an ``Extractor`` where rows are given and nobody here can look.

    - rows_shape: of a row in the file, (D,) or (L, C)
    - output: 'pooled', of a grid its mean, or 'grid'
    - made_by: what the file says of its maker
    """

    def __init__(self, rows_shape: Sequence[int], output: str, made_by: dict, pca=None):
        self.rows_shape, self.output = tuple(rows_shape), output
        self.made_by, self.pca = made_by, pca

    @classmethod
    def rebuild(cls, specification: Mapping, arrays: Mapping[str, Array]) -> GivenExtractor:
        pca = PCA(arrays["pca_mean"], arrays["pca_components"]) if arrays else None
        known = specification
        return cls(known["shape"], known["output"], known["made_by"], pca)

    def finish(self, rows: Array) -> Array:
        """(N, D) or (N, L, C) as given -> the features that a decoder reads, float32."""
        features = np.asarray(rows, np.float32)
        if self.output == "grid":
            features = scale_grid(features)
        elif features.ndim == 3:
            features = features.mean(axis=1)
        return features if self.pca is None else self.pca(features)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the features of one picture: (D,) or (L, C)."""
        shape = self.rows_shape if self.output == "grid" else self.rows_shape[-1:]
        return shape if self.pca is None else (*shape[:-1], self.pca.components.shape[1])

    @property
    def specification(self) -> dict:
        """What tells these features from others, as JSON."""
        preprocessing = self.made_by.get("preprocessing")
        size = preprocessing.get("size") if isinstance(preprocessing, dict) else None
        return {
            "encoder": GIVEN,
            "output": self.output,
            "preprocessing": {"size": _USUAL_SIZE if _SIZE.fault(size) else size},
            "weights": None,
            "sha256": None,
            "shape": list(self.rows_shape),
            "made_by": self.made_by,
        }

    @property
    def arrays(self) -> dict[str, Array]:
        """The projection, by name; empty without one."""
        return {} if self.pca is None else self.pca.arrays


@dataclass(frozen=True)
class GivenFeatures:
    """A file of features, checked.

    - table: (n, ...) its rows
    - names: of the photo of each
    - made_by: what it says of its maker, as JSON
    """

    path: Path
    table: Rows
    names: list[str]
    made_by: dict

    @classmethod
    def read(cls, path: str | Path) -> GivenFeatures:
        """Raises FileNotFoundError, or ValueError for what is not as described above."""
        path = Path(path)
        table = open_features(path)
        if table.dtype.itemsize not in (2, 4):
            raise ValueError(
                f"{path}: features are {table.dtype}, expected float16 or float32; convert them"
            )
        _require_places(path, table.shape)
        with open_h5(path) as file:
            names = _read_names(path, file)
            made_by = _read_made_by(path, file)
        if len(names) != len(table):
            raise ValueError(
                f"{path}: has {len(table):,} rows of features and {len(names):,} names, expected a "
                "name for each row; write both again"
            )
        name, times = Counter(names).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"{path}: {shown(name)} is the name of {times} rows, expected one; write each "
                "photo once"
            )
        for start in range(0, len(table), _BLOCK):
            finite = np.isfinite(table[start : start + _BLOCK].reshape(-1, table[:1].size))
            if not finite.all():
                lost = names[start + int(np.argmin(finite.all(axis=1)))]
                raise ValueError(
                    f"{path}: the features of {shown(lost)} hold NaN or infinity; make them again"
                )
        return cls(path, table, names, made_by)

    def extractors(self) -> dict[str, GivenExtractor]:
        """What makes of a row each kind of features: 'pooled', and of a grid both."""
        kinds = ("pooled", "grid")[: self.table.ndim - 1]
        shape = self.table.shape[1:]
        return {kind: GivenExtractor(shape, kind, self.made_by) for kind in kinds}

    def rows_of(self, photos: Iterable[str]) -> list[int | None]:
        """The row of each photo, by file name, with more or less of its folders; None without one.

        Raises ValueError when a photo may be of two rows, or two photos of one.
        """
        find, number = Names(self.names).find, {name: i for i, name in enumerate(self.names)}
        rows: list[int | None] = []
        owner: dict[str, str] = {}
        for photo in photos:
            found = find(photo)
            if len(found) > 1:
                raise ValueError(
                    f"{self.path}: photo {photo} may be {found[0]} or {found[1]}; write names with "
                    "their folders"
                )
            if found and owner.setdefault(found[0], photo) != photo:
                raise ValueError(
                    f"{self.path}: {owner[found[0]]} and {photo} are both found as {found[0]}; "
                    "write names with their folders"
                )
            rows.append(number[found[0]] if found else None)
        return rows

    def account(self, photos: Iterable[str]) -> list[str]:
        """Lines that say what is in the file, and how much of it is of these photos."""
        rows = self.rows_of(photos)
        taken = sum(row is not None for row in rows)
        shape = " x ".join(map(str, self.table.shape[1:]))
        lines = [
            f"{self.path}: features of {len(self.names):,} photos, {shape} {self.table.dtype}; "
            f"{taken:,} of the {len(rows):,} photos here have some, {len(self.names) - taken:,} "
            "other rows are left out"
        ]
        if not self.made_by:
            lines.append(f"{self.path}: does not say what made it; keep the script")
        if "projection" in self.made_by:
            lines.append(f"{self.path}: holds the result of a PCA of its own, of what photos ever")
        return lines

    def lack(self, photo: str) -> str:
        return f"{photo}: has no features in {self.path}"

    def of_photos(
        self, names: Sequence[str], paths: Sequence[Path], extractors: Mapping, dtypes: Mapping
    ) -> Extracted:
        """As ``core.encoders.extract.extract`` gives the features of photos that it looks at.

        Inputs:
        - names, paths: of the photos
        - extractors, dtypes: for each kind of features what makes them, and how they are stored
        """
        rows = self.rows_of(names)
        kept = [i for i, row in enumerate(rows) if row is not None]
        chosen = np.array([rows[i] for i in kept], int)
        # Copies: the table is of what there is before a projection is fitted on it.
        finish = {kind: copy(extractor).finish for kind, extractor in extractors.items()}

        def blocks(kind: str) -> Iterator[Array]:
            for start in range(0, len(chosen), _BLOCK):
                features = finish[kind](self.table[chosen[start : start + _BLOCK]])
                yield features.astype(dtypes[kind])

        def table(kind: str) -> Blocks:
            shape = len(kept), *extractors[kind].shape
            return Blocks(shape, np.dtype(dtypes[kind]), lambda: blocks(kind))

        return Extracted(
            kept,
            [self.lack(names[i]) for i, row in enumerate(rows) if row is None],
            {kind: table(kind) for kind in extractors},
            np.array([stamp(path) for path in paths], np.int64).reshape(-1, 4),
            np.array([read_hashed(path)[1] for path in paths], "S64"),
        )


def features_of_own_photos(
    checkpoint, file: str | Path, paths: Sequence[Path], all_named
) -> tuple[list[Path], Array]:
    """The features of photos for a checkpoint that was trained on given ones.

    Inputs:
    - checkpoint: whose extractor is a ``GivenExtractor``
    - file: with the rows of these photos
    - paths: of the photos
    - all_named: whether the user named each; else those without a row are left out, and a warning
      says so

    Returns the photos that have features, and these.

    Raises ValueError when the file's maker is not that of the training, and for a photo that was
    named and has no row.
    """
    extractor = GivenExtractor.rebuild(checkpoint.extractor, checkpoint.extractor_arrays)
    given = GivenFeatures.read(file)
    if given.table.shape[1:] != extractor.rows_shape:
        raise ValueError(
            f"--features {file}: rows are {given.table.shape[1:]}, expected "
            f"{extractor.rows_shape}, as of the checkpoint's training; make them by the "
            "same script"
        )
    if given.made_by != extractor.made_by:
        keys = sorted(given.made_by.keys() | extractor.made_by.keys())
        other = next(k for k in keys if given.made_by.get(k) != extractor.made_by.get(k))
        found, expected = (shown(m.get(other)) for m in (given.made_by, extractor.made_by))
        raise ValueError(
            f"--features {file}: {other} of what made it is {found}, expected {expected}, as of "
            "the features that the checkpoint was trained on; make them by the same script"
        )
    rows = given.rows_of(str(path) for path in paths)
    lacks = [given.lack(str(path)) for path, row in zip(paths, rows, strict=True) if row is None]
    if lacks and (all_named or len(lacks) == len(paths)):
        raise ValueError(f"--features {file}: {lacks[0]}; make them by the same script")
    if lacks:
        warnings.warn(left_out(lacks, len(paths)), stacklevel=2)
    found = [row for row in rows if row is not None]
    kept = [path for path, row in zip(paths, rows, strict=True) if row is not None]
    return kept, extractor.finish(given.table[np.array(found)])


def told(made_by: Mapping) -> str:
    """Who made features, in a few words."""
    words = [str(made_by[key]) for key in ("script", "encoder", "model") if key in made_by]
    return " ".join(words) or "another program"


def add_options(parser: ArgumentParser, model: str) -> None:
    """The options of a script that makes such a file, all but what is its own."""
    parser.add_argument(
        "--images", required=True, nargs="+", metavar="PLACE", help="photos, or a folder of them"
    )
    parser.add_argument("--out", required=True, metavar="FILE.h5", help="the file to make")
    parser.add_argument("--model", default=model, metavar="NAME", help="what looks at the photos")
    parser.add_argument("--grid", action="store_true", help="a grid of places, not one vector")


def describe_photos(
    images: Sequence[str], out: str | Path, look: Callable[[list[Array]], Array], made_by: Mapping
) -> None:
    """Writes the features of photos; what is left out is printed.

    Inputs:
    - images: photos, known by their names, or folders, whose photos are known by their places below
    - out: the file to make
    - look: (h, w, 3) uint8 pictures of any size -> (N, D) or (N, L, C) numbers
    - made_by: what tells these features from others, as JSON

    Raises FileExistsError when ``out`` is there already; ValueError for two photos of one name, for
    a name that is not UTF-8, when too many cannot be read, and when ``look`` gives neither.
    """
    if Path(out).exists():
        raise FileExistsError(f"--out {out}: is there already; remove it, or take another name")
    try_out("--out", Path(out))
    photos: dict[str, Path] = {}
    for place in map(Path, images):
        found = list_pictures(place) if place.is_dir() else [place]
        if place.is_dir() and (others := other_files(place)):
            print(others)
        for path in found:
            name = path.relative_to(place).as_posix() if place.is_dir() else path.name
            if photos.setdefault(name, path) != path:
                raise ValueError(
                    f"--images: {photos[name]} and {path} have one name; take them one by one"
                )
    require_names_in_utf8(photos)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    paths = list(photos.values())
    reasons = find_unreadable(paths)
    refuse_unreadable({"--images": [*reasons.values()]}, {"--images": len(paths)}, Path(images[0]))
    if reasons:
        print(left_out(list(reasons.values()), len(paths)))
    names = [name for i, name in enumerate(photos) if i not in reasons]

    def rows() -> Iterator[Array]:
        for start in progress(range(0, len(names), _AT_ONCE), "looking at photos"):
            seen = look([load_image(photos[name]) for name in names[start : start + _AT_ONCE]])
            _require_places("--model", np.shape(seen))
            yield np.asarray(seen, np.float16 if np.ndim(seen) == 3 else np.float32)

    write_given(out, names, rows(), made_by)
    with h5py.File(out) as file:
        print(f"{out}: {file['features'].shape} {file['features'].dtype}")


def _require_places(where: str | Path, shape: Sequence[int]) -> None:
    """Raises ValueError unless features are vectors (n, D), or grids (n, L, C) of L = G x G."""
    if len(shape) not in (2, 3):
        raise ValueError(f"{where}: gives features {tuple(shape)}, expected (n, D) or (n, L, C)")
    if len(shape) == 3 and math.isqrt(shape[1]) ** 2 != shape[1]:
        raise ValueError(
            f"{where}: features are grids of {shape[1]} cells, expected G x G of them, row by row; "
            "leave out what is no place, such as a class token"
        )


def hash_of(state: Mapping) -> str:
    """The SHA-256 of a PyTorch network's state dict, which tells its weights from others."""
    digest = hashlib.sha256()
    for name, x in state.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(x.detach().float().numpy()))
    return digest.hexdigest()


def write_given(
    path: str | Path, names: Sequence[str], rows: Iterable[Array], made_by: Mapping
) -> None:
    """Writes a file of features, whole or not at all.

    Inputs:
    - names: of the n photos
    - rows: their features in order, some photos at a time, (N, D) or (N, L, C); float32, or
      float16 for grids
    - made_by: what tells these features from others: script, model, weights, preprocessing; JSON

    Raises ValueError when there are not n rows.
    """
    rows = iter(rows)
    first, count = next(rows), 0

    def blocks() -> Iterator[Array]:
        nonlocal count
        for block in chain([first], rows):
            count += len(block)
            if count > len(names):
                break
            yield block

    table = Blocks((len(names), *first.shape[1:]), first.dtype, blocks)
    with atomic_file(path) as temporary:
        write_features(temporary, table, names=list(names), extractor=json.dumps(dict(made_by)))
        if count != len(names):
            raise ValueError(
                f"{path}: found {count:,} rows, expected one for each name, {len(names):,}"
            )


def _read_names(path: Path, file: h5py.File) -> list[str]:
    dataset = dataset_in(path, file, "names")
    if dataset.ndim != 1 or dataset.dtype.kind not in "SO":
        raise ValueError(
            f"{path}: names are {dataset.dtype} {dataset.shape}, expected text (n,): the file name "
            "of each row's photo"
        )
    found = dataset[()].tolist()
    try:
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in found]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a name is not text in UTF-8 ({error.reason})") from error
    return [name.replace("\\", "/") for name in names]  # as Windows writes places


def _read_made_by(path: Path, file: h5py.File) -> dict:
    """What the file says of its maker; of a projection in it the hash."""
    made_by: dict = {}
    if "extractor" in file:
        text = dataset_in(path, file, "extractor")[()]
        made_by = parse_json(path, text.decode() if isinstance(text, bytes) else str(text))
        if not isinstance(made_by, dict):
            raise ValueError(
                f"{path}: extractor is {shown(made_by)}, expected a JSON object that tells what "
                "made the features"
            )
        if "sha256" in made_by:  # which tells more than the place of the weights on some machine
            made_by.pop("weights", None)
    digest = hashlib.sha256()
    arrays = [name for name in ("pca_mean", "pca_components") if name in file]
    for name in arrays:
        digest.update(np.ascontiguousarray(dataset_in(path, file, name)[()]))
    return made_by | ({"projection": digest.hexdigest()} if arrays else {})
