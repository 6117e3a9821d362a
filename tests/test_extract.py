"""Features of many photos: in parts, resumed, shared by processes, never whole in memory."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import two_processes
from PIL import Image

from core.coco_utils.tables import Blocks, open_features, write_features
from core.encoders import Extractor
from core.encoders.extract import _PART, extract
from core.encoders.pca import fit_pca
from core.encoders.pictures import LookedAt, Pictures, kept_features
from core.image_utils import load_image

COUNT = 2 * _PART + 30
DTYPES = {"pooled": np.float32, "grid": np.float16}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Small pictures; of each the first pixel is its number."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        picture = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture[0, 0] = (*divmod(i, 256), 0)
        Image.fromarray(picture).save(folder / f"{i:04}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def copies(photos, tmp_path) -> list[Path]:
    """Photos of the test's own, written long ago."""
    folder = tmp_path / "copies"
    folder.mkdir()
    for i, path in enumerate(photos):
        shutil.copy(path, folder)
        age(folder / path.name, days=i + 1)
    return sorted(folder.iterdir())


def age(path, days):
    then = path.stat().st_mtime_ns - days * 10**9 * 86400
    os.utime(path, ns=(then, then))


def show(path, number, keep_times=False):
    """Puts another picture into a file: the one of that number, from the outside like the old."""
    before = path.stat()
    picture = np.zeros((12, 16, 3), np.uint8)
    picture[0, 0] = (*divmod(number, 256), 0)
    Image.fromarray(picture).save(path, "bmp")  # always of the same size
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def save_again(path):
    path.write_bytes(path.read_bytes())


def touch(path):
    os.utime(path)


def copy_over(path):
    other = path.with_name("other")
    shutil.copy2(path, other)
    os.replace(other, path)


class Numbers:
    """Plays an encoder: what it finds in a photo is its number. Counts the photos it sees."""

    specification = fingerprint = {"encoder": "numbers"}
    arrays = {}
    encoder, device = "numbers", "cpu"

    def __init__(self, width=1, stop_after=None):
        self.shape, self.seen, self.stop_after = (width,), 0, stop_after

    def encode(self, pictures):
        self.seen += len(pictures)
        if self.stop_after is not None and self.seen > self.stop_after:
            raise KeyboardInterrupt
        return np.array([256 * int(p[0, 0, 0]) + int(p[0, 0, 1]) for p in pictures])

    def finish(self, outputs):
        return np.broadcast_to(outputs[:, None], (len(outputs), *self.shape))

    def __call__(self, pictures):
        return self.finish(self.encode(pictures)).astype(np.float32)


def run(photos, extractor, folder):
    found = extract(photos, {"pooled": extractor, "grid": extractor}, folder, DTYPES, "test")
    return found and {
        kind: np.concatenate(list(table.blocks())) for kind, table in found.features.items()
    }


def test_every_photo_in_order(photos, tmp_path):
    extractor = Numbers(3)
    tables = run(photos, extractor, tmp_path / "parts")
    assert extractor.seen == COUNT
    for kind, table in tables.items():
        assert table.dtype == DTYPES[kind]
        np.testing.assert_array_equal(table, np.repeat(np.arange(COUNT)[:, None], 3, axis=1))


def test_what_was_done_is_not_done_again(photos, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(photos, Numbers(stop_after=_PART + 40), tmp_path / "parts")
    again = Numbers()
    tables = run(photos, again, tmp_path / "parts")
    assert again.seen == COUNT - _PART
    np.testing.assert_array_equal(tables["pooled"][:, 0], np.arange(COUNT))


def test_parts_of_another_extraction_are_refused(photos, tmp_path):
    run(photos, Numbers(), tmp_path / "parts")
    other = Numbers()
    other.fingerprint = {"encoder": "numbers", "sha256": "other"}
    for paths, extractor in ((photos, other), (photos[1:], Numbers())):
        with pytest.raises(ValueError, match=r"parts: holds the beginning of another extraction"):
            run(paths, extractor, tmp_path / "parts")


def test_a_photo_that_cannot_be_read_is_looked_at_again_once_it_can(photos, tmp_path):
    paths = list(photos)
    paths[5] = tmp_path / "mine.png"
    paths[5].write_bytes(b"torn")
    found = extract(paths, {"pooled": Numbers()}, tmp_path / "parts", DTYPES, "test")
    assert found.kept == [i for i in range(COUNT) if i != 5]
    assert len(found.skipped) == 1
    assert "mine.png" in found.skipped[0]
    assert found.features["pooled"].shape == (COUNT - 1, 1)
    (row,) = np.flatnonzero(np.concatenate(list(found.features["pooled"].blocks()))[:, 0] == 6)
    assert row == 5, "the skipped photo leaves no gap"
    paths[5].write_bytes(photos[5].read_bytes())
    again = Numbers()
    with pytest.warns(UserWarning, match="changed"):
        found = extract(paths, {"pooled": again}, tmp_path / "parts", DTYPES, "test")
    assert not found.skipped
    assert again.seen == _PART, "only the part that it is in"


def test_each_process_takes_its_parts(photos, tmp_path, monkeypatch):
    """The second of two processes first, then the first, which finds its parts."""
    monkeypatch.setattr("core.support.processes.wait_for_all", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    (tmp_path / "parts").mkdir()
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        extractor = Numbers()
        tables = run(photos, extractor, tmp_path / "parts")
        seen.append(extractor.seen)
        assert (tables is None) == (rank == "1")
    assert seen == [_PART, COUNT - _PART]
    np.testing.assert_array_equal(tables["pooled"][:, 0], np.arange(COUNT))


@pytest.mark.slow
def test_features_are_never_whole_in_memory(photos, tmp_path):
    """280 MiB of them; a part is 64 MiB, twice while it is put together."""
    wide = Numbers(2**18)
    tracemalloc.start()
    found = extract(photos, {"grid": wide}, tmp_path / "parts", {"grid": np.float16}, "test")
    write_features(tmp_path / "grid.h5", found.features["grid"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    table = open_features(tmp_path / "grid.h5")
    with h5py.File(tmp_path / "grid.h5") as file:
        assert file["features"].chunks is None, "not in one piece: slow to read"
    assert table.shape == (COUNT, 2**18)
    np.testing.assert_array_equal(table[:, -1], np.arange(COUNT))
    assert peak < 150 * 2**20, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize(("n", "D"), [(50, 8), (8, 50)])
def test_pca_of_blocks_is_that_of_the_whole(n, D):
    x = np.random.default_rng(0).standard_normal((n, D)).astype(np.float32)
    blocks = Blocks(x.shape, x.dtype, lambda: iter([x[:3], x[3:4], x[4:]]))
    whole, pieces = fit_pca(x, 4), fit_pca(blocks, 4)
    np.testing.assert_allclose(pieces.components, whole.components, atol=1e-5)
    np.testing.assert_allclose(pieces.mean, whole.mean, atol=1e-6)
    projected = np.concatenate(list(blocks.project(pieces).blocks()))
    np.testing.assert_allclose(projected, whole(x), atol=1e-4)


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------

COMMAND = ("core.encoders.extract", "--encoder", "tiny_cnn", "--weights", "random")


def read(path) -> tuple[np.ndarray, list[str], Extractor]:
    with h5py.File(path) as file:
        names = [name.decode() for name in file["names"]]
        arrays = {name: file[name][:] for name in ("pca_mean", "pca_components") if name in file}
        specification = json.loads(file["extractor"][()])
    return np.asarray(open_features(path)), names, Extractor.rebuild(specification, arrays)


@pytest.mark.parametrize(
    "options", [("--pca", 7), ("--pca", 0), ("--grid",), ("--grid", 2, "--pca", 7)]
)
def test_command(photos, tmp_path, command, options):
    out = tmp_path / "features.h5"
    code, text, error = command(
        *COMMAND, "--images", photos[0].parent, "--out", out, *options, "--device", "cpu"
    )
    assert code == 0, error
    features, names, extractor = read(out)
    shapes = {("--pca", 7): (7,), ("--pca", 0): (128,), ("--grid",): (64, 140)}
    assert features.shape == (COUNT, *shapes.get(options, (4, 7)))
    assert ("PCA: keeps " in text) == (7 in options)
    assert str(features.shape) in text
    assert names == [path.name for path in photos]
    again = extractor([load_image(path) for path in photos[130:134]])
    np.testing.assert_allclose(again, features[130:134], rtol=2e-3, atol=2e-3)
    assert sorted(path.name for path in tmp_path.glob("*")) == ["features.h5"], "files are left"


def test_the_command_leaves_out_what_it_cannot_read(copies, tmp_path, command):
    """Of a folder with others in it; names say where a photo lies."""
    root, out = tmp_path / "root", tmp_path / "features.h5"
    for place in ("a", "b", ".hidden"):
        shutil.copytree(copies[0].parent, root / place)
    (root / "a" / copies[3].name).write_bytes(b"torn")
    (root / "list.csv").write_text("mine")
    code, text, error = command(*COMMAND, "--images", root, "--out", out, "--pca", 0)
    assert code == 0, error
    features, names, extractor = read(out)
    everything = [f"{place}/{path.name}" for place in "ab" for path in copies]
    assert names == [name for name in everything if name != f"a/{copies[3].name}"]
    assert (
        f"left out 1 of {2 * COUNT} photos: {root / 'a' / copies[3].name}: cannot be read" in text
    )
    assert f"left out 1 of {2 * COUNT + 1} files" in text
    again = extractor([load_image(root / names[i]) for i in (2, 3, COUNT)])
    np.testing.assert_allclose(again, features[[2, 3, COUNT]], rtol=2e-3, atol=2e-3)


def test_the_command_refuses(photos, tmp_path, refuses):
    images, out = photos[0].parent, tmp_path / "features.h5"
    base = (*COMMAND, "--out", out)
    refuses(*base, "--images", tmp_path / "nowhere", says=("--images", "no such folder"))
    refuses(*base, "--images", tmp_path, says=("--images", "holds no pictures"))
    refuses(*base, "--images", images, "--pca", 500, says=("--pca 500", str(COUNT), "fewer"))
    refuses(*base, "--images", images, "--grid", "--pca", 141, says=("--pca 141", "140 wide"))
    refuses(*base, "--images", images, "--grid", 9, says=("9 cells", "1 to 8"))
    download = ("--weights", "download", "--pca", 0, "--images", images)
    refuses(*base, *download, says=("nobody published a state dict of tiny_cnn",))
    out.write_text("mine")
    refuses(*base, "--images", images, says=("--out", "is there already"))
    assert out.read_text() == "mine"


@pytest.mark.slow
def test_two_processes_extract_what_one_does(photos, tmp_path, command):
    options = ("--images", photos[0].parent, "--pca", 5, "--device", "cpu")
    code, _, error = command(*COMMAND, *options, "--out", tmp_path / "one.h5")
    assert code == 0, error
    done = two_processes(tmp_path, *COMMAND, *options, "--out", tmp_path / "two.h5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two.h5") == 1, "one process talks"
    one, two = read(tmp_path / "one.h5"), read(tmp_path / "two.h5")
    assert one[1] == two[1]
    np.testing.assert_allclose(two[0], one[0], rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------
# Tables of pictures
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """``kept_features`` of one split, in a temporary folder."""
    monkeypatch.setattr("core.encoders.pictures.FOLDER", tmp_path / "kept")

    def run(paths, extractor, make=True):
        tables, unreadable = kept_features({"all": paths}, extractor, Path("some"), make)
        return tables["all"], unreadable.get("all")

    run.folder = tmp_path / "kept"
    return run


def test_kept_features_are_made_once(photos, kept):
    extractor = Numbers(2)
    asked, _ = kept(photos, extractor, make=False)
    assert isinstance(asked, LookedAt)
    np.testing.assert_array_equal(asked[[3, 1, 3]][:, 0], [3, 1, 3])
    assert extractor.seen == 2, "only what was asked for, each once"
    for _ in range(2):
        table, unreadable = kept(photos, extractor)
        np.testing.assert_array_equal(table[:, 1], np.arange(COUNT))
        assert extractor.seen == 2 + COUNT
        assert unreadable == {}
    assert table.dtype == np.float16
    with h5py.File(table.path) as file:
        assert file["features"].chunks is None
    np.testing.assert_array_equal(kept(photos, extractor, make=False)[0], table)
    assert len(kept(photos[2:], extractor)[0]) == COUNT - 2, "other photos"
    assert len(list(kept.folder.glob("some_all_numbers_*.h5"))) == 2
    assert len(list(kept.folder.iterdir())) == 2, "parts are left"


@pytest.mark.parametrize("young", [0, 2 * 10**9], ids=["at leisure", "at once"])
@pytest.mark.parametrize("keep_times", [False, True], ids=["newer", "times put back"])
def test_kept_features_are_those_of_the_photos_that_are_there(
    copies, kept, keep_times, young, monkeypatch
):
    """After a photo was replaced it is looked at again; no other is."""
    monkeypatch.setattr("core.encoders.photos._YOUNG", young)
    for i in (3, 200):
        show(copies[i], i)
    kept(copies, Numbers())
    for i in (3, 200):
        show(copies[i], 500 + i, keep_times)
    again = Numbers()
    with pytest.warns(UserWarning, match=f"2 of {COUNT} pictures"):
        table, _ = kept(copies, again)
    expected = np.arange(COUNT)
    expected[[3, 200]] += 500
    np.testing.assert_array_equal(table[:, 0], expected)
    assert again.seen == 2
    kept(copies, again)
    assert again.seen == 2, "now it is known"
    show(copies[9], 900)
    asked, _ = kept(copies, again, make=False)
    assert asked[[9]][0, 0] == 900


@pytest.mark.parametrize("done", [save_again, touch, copy_over])
def test_a_photo_with_the_same_bytes_is_the_same(copies, kept, done):
    kept(copies, Numbers())
    for path in copies[::50]:
        done(path)
    again = Numbers()
    table, _ = kept(copies, again)
    assert again.seen == 0
    np.testing.assert_array_equal(table[:, 0], np.arange(COUNT))


def test_parts_are_those_of_the_photos_that_are_there(copies, tmp_path):
    show(copies[3], 3)
    extract(copies, {"pooled": Numbers()}, tmp_path / "parts", DTYPES, "test")
    show(copies[3], 503, keep_times=True)
    touch(copies[2 * _PART + 1])
    again = Numbers()
    with pytest.warns(UserWarning, match=f"changed .*: 1; .* {_PART} are looked at again"):
        found = extract(copies, {"pooled": again}, tmp_path / "parts", DTYPES, "test")
    assert again.seen == _PART, "only the part that it is in"
    table = np.concatenate(list(found.features["pooled"].blocks()))[:, 0]
    np.testing.assert_array_equal(table, [503 if i == 3 else i for i in range(COUNT)])


def test_kept_features_of_an_interrupted_look_go_on_and_know_what_changed(copies, kept):
    show(copies[3], 3)
    with pytest.raises(KeyboardInterrupt):
        kept(copies, Numbers(stop_after=_PART + 40))
    show(copies[3], 503)
    again = Numbers()
    with pytest.warns(UserWarning, match="changed"):
        table, _ = kept(copies, again)
    assert again.seen == COUNT, "the part that was done has changed"
    assert table[3, 0] == 503
    show(copies[200], 700)
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="1 of"):
        kept(copies, Numbers(stop_after=0))
    show(copies[9], 509)
    with pytest.warns(UserWarning, match="2 of"):
        table, _ = kept(copies, Numbers())
    assert table[[3, 9, 200], 0].tolist() == [503, 509, 700]


def test_kept_features_of_another_version_or_torn_are_made_again(photos, kept):
    kept(photos, Numbers())
    (file,) = kept.folder.iterdir()
    with h5py.File(file, "r+") as opened:
        del opened["hashes"]
    for _ in range(2):
        again = Numbers()
        np.testing.assert_array_equal(kept(photos, again)[0][:, 0], np.arange(COUNT))
        assert again.seen == COUNT
        file.write_bytes(file.read_bytes()[:1000])


def test_kept_features_leave_out_what_cannot_be_read(copies, kept):
    """Its row is no number, and of those that can be read each keeps its place."""
    whole = copies[5].read_bytes()
    copies[5].write_bytes(whole[:60])
    copies[COUNT - 1].unlink()
    table, unreadable = kept(copies, Numbers())
    assert list(unreadable) == [5, COUNT - 1]
    assert copies[5].name in unreadable[5]
    assert "no such picture" in unreadable[COUNT - 1]
    assert np.isnan(table[[5, COUNT - 1], 0]).all()
    good = [i for i in range(COUNT) if i not in unreadable]
    np.testing.assert_array_equal(table[good, 0], good)
    again = Numbers()
    assert kept(copies, again)[1] == unreadable
    assert kept(copies, again, make=False)[1] == unreadable
    assert again.seen == 0, "they are no better than they were"
    copies[5].write_bytes(whole)
    copies[7].write_bytes(b"torn")
    with pytest.warns(UserWarning, match="2 of"):
        table, unreadable = kept(copies, again)
    assert again.seen == 1
    assert list(unreadable) == [7, COUNT - 1]
    assert table[5, 0] == 5
    assert np.isnan(table[7, 0])


def test_too_many_that_cannot_be_read_are_refused_before_any_is_looked_at(copies, kept):
    for path in copies[-3:]:  # of 286
        path.write_bytes(b"")
    extractor = Numbers()
    with pytest.raises(ValueError, match=rf"some: more than 1% .* 3 of {COUNT}, .*283\.png.*empty"):
        kept(copies, extractor)
    assert extractor.seen == 0
    copies[-1].write_bytes(copies[0].read_bytes())
    assert len(kept(copies, extractor)[1]) == 2


def test_runs_that_keep_the_same_features_at_once(copies, kept):
    """The second waits for the first, and then finds them."""
    looks = [Numbers(), Numbers()]
    with ThreadPoolExecutor(2) as pool:  # each opens the folder for itself, as processes do
        tables = [table for table, _ in pool.map(kept, [copies, copies], looks)]
    for table in tables:
        np.testing.assert_array_equal(table[:, 0], np.arange(COUNT))
    assert sum(look.seen for look in looks) == COUNT
    assert len(list(kept.folder.iterdir())) == 1


@pytest.mark.parametrize("rows", [slice(2, 70), [5], [9, 2, 9], slice(0, 0)])
def test_looked_at_is_indexed_as_an_array(photos, rows):
    table = LookedAt(photos, Numbers(2))
    assert table.shape == (COUNT, 2)
    assert len(table) == COUNT
    np.testing.assert_array_equal(table[rows][:, 0], np.arange(COUNT)[rows])


@pytest.mark.parametrize("remember", [False, True])
def test_looked_at_remembers_when_it_is_to(photos, remember):
    extractor = Numbers(2)
    table = LookedAt(photos, extractor, remember)
    for _ in range(2):
        np.testing.assert_array_equal(table[[4, 9, 4]][:, 1], [4, 9, 4])
    np.testing.assert_array_equal(table[[9, 5]][:, 1], [9, 5])
    assert extractor.seen == (3 if remember else 6), "each once a time, or once for all"


def test_pictures_are_read_once_a_batch(photos):
    table = Pictures(photos, {"size": 12}, (64, 140))
    assert table.shape == (COUNT, 64, 140)
    batch = table[np.array([7, 7, 3, 7])]
    assert len(batch) == 4
    assert batch.images.shape == (2, 12, 12, 3)
    part = batch[np.array([2, 3])]
    assert len(part) == 2
    expected = [load_image(photos[i])[:, 2:14] for i in (3, 7)]  # the square in the centre
    np.testing.assert_array_equal(part.images[part.of_row], expected)
