"""A run folder is one run's: the lock, what a killed run leaves, runs and data that were moved."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, WORDS, make_tiny_folder
from test_coco_utils import at, rewrite
from test_solver import assert_same_run, make_solver

from core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.coco_utils import CAPTIONS_FILE, load_coco_data
from core.runs.data import same_extractor
from core.runs.lock import LOCK_FILE, locked
from core.runs.saving import Saving

TINY = ("--model", "rnn", "--num_epochs", 1, "--hidden_dim", 8, "--wordvec_dim", 8)


@pytest.fixture
def train(command, tiny_folder):
    """A short training in the folder ``run``; returns exit code, stdout, stderr."""

    def run(*options):
        return command("training.py", *TINY, "--data", tiny_folder, "--out", "run", *options)

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def lock_of(process: int, started, host: str | None = None) -> str:
    host = socket.gethostname() if host is None else host
    return json.dumps({"process": process, "started": started, "host": host, "since": "noon"})


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# ---------------------------------------------------------------------------------------------
# One run at a time
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [(), ("--resume",)], ids=["anew", "resumed"])
def test_a_folder_in_use_is_refused_and_left_alone(train, refuses, tmp_path, option):
    assert train()[0] == 0
    with locked(tmp_path / "run"):
        before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        says = (f"--out {tmp_path}/run: process {os.getpid()} has been training there", "wait for")
        refuses("training.py", *TINY[:2], "--out", "run", *option, says=says)
        assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert LOCK_FILE not in names(tmp_path / "run")
    assert train()[0] == 0


def test_a_run_that_has_only_begun_has_its_folder_too(refuses, tmp_path):
    (tmp_path / "link").symlink_to("run")
    with locked(tmp_path / "run"):
        for name in ("run", "link", "run/../run"):
            refuses("training.py", "--model", "rnn", "--out", name, says=("has been training",))


@pytest.mark.slow
def test_two_commands_at_once_are_one_run(shapes_folder, tmp_path):
    """Each would take the folder; one gets it and ends well."""
    options = "--model rnn --num_samples 20 --num_epochs 60 --hidden_dim 64 --out run".split()
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "training.py", *options, "--seed", seed],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in "12"
    ]
    errors = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], errors
    assert "choose another folder with --out" in errors[codes.index(2)]
    seed = int("12"[codes.index(0)])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == seed
    assert load_checkpoint(tmp_path / "run" / "last.npz").settings["seed"] == seed
    assert names(tmp_path) == {"run"}


LEFT = {
    "a process that ended": lambda: lock_of(ended_process(), "1"),
    "another process with its number": lambda: lock_of(os.getpid(), "1"),
    "torn": lambda: '{"process": 1',
    "of another kind": lambda: "[3]",
    "no number": lambda: lock_of("me", None),
    "no such number": lambda: lock_of(2**70, None),
}


@pytest.mark.parametrize("text", LEFT.values(), ids=LEFT)
def test_what_a_killed_run_left_does_not_block_its_folder(train, tmp_path, text):
    if "proc" in text() and not Path("/proc/self/stat").exists():
        pytest.skip("this system does not say when a process started")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).write_text(text())
    (tmp_path / "run" / ".last.4711.part.npz").write_text("half")
    code, _, error = train()
    assert code == 0, error
    assert not [name for name in names(tmp_path / "run") if name.startswith(".")]


def test_of_another_machine_nobody_can_tell(refuses, train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).write_text(lock_of(ended_process(), "1", "far-away"))
    says = ("of far-away", "if that runs no more, remove", f"run/{LOCK_FILE}")
    refuses("training.py", *TINY, "--out", "run", says=says)
    (tmp_path / "run" / LOCK_FILE).unlink()
    assert train()[0] == 0


def test_a_lock_that_is_being_written_is_one(refuses, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).touch()
    refuses("training.py", *TINY, "--out", "run", says=("another run is starting there",))
    assert names(tmp_path / "run") == {LOCK_FILE}
    os.utime(tmp_path / "run" / LOCK_FILE, (0, 0))  # it has been empty for long
    with locked(tmp_path / "run"):
        pass
    assert names(tmp_path / "run") == set()


def test_a_failed_start_leaves_no_folders(refuses, tmp_path):
    refuses("training.py", *TINY, "--data", "nowhere", "--out", "a/b/c", says=("nowhere",))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError, ValueError, SystemExit])
def test_however_a_run_ends_its_lock_is_gone(tmp_path, end):
    (tmp_path / "run").mkdir()
    with pytest.raises(end), locked(tmp_path / "run"):
        raise end
    assert names(tmp_path / "run") == set()


def test_a_run_never_writes_into_what_became_another_run(tiny_folder, tmp_path):
    """Its folder is moved away in mid-training, and another run begins under the old name."""
    data, folder = load_coco_data(tiny_folder), tmp_path / "run"
    sizes = {"input_dim": 6, "wordvec_dim": 5, "hidden_dim": 7}  # of make_solver
    checkpoint = Checkpoint("lstm", sizes, list(data["word_to_idx"]), {})
    with locked(folder) as lock:
        saving = Saving(folder, checkpoint, lock)

        def save_then_move(solver):
            saving(solver)
            folder.rename(tmp_path / "moved")
            folder.mkdir()
            (folder / LOCK_FILE).write_text("of another")

        with pytest.raises(ValueError, match="taken by another run"):
            make_solver(data, num_epochs=3, after_epoch=save_then_move).train()
    assert names(folder) == {LOCK_FILE}
    assert (folder / LOCK_FILE).read_text() == "of another"
    assert load_checkpoint(tmp_path / "moved" / "last.npz").training["epoch"] == 1


def test_temporary_files_are_of_one_process(tmp_path, monkeypatch):
    from core.support.files import atomic_file

    with atomic_file(tmp_path / "a.json") as one:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with atomic_file(tmp_path / "a.json") as two:
            assert one != two
            one.write_text("1")
            two.write_text("2")
        assert (tmp_path / "a.json").read_text() == "2"
    assert (tmp_path / "a.json").read_text() == "1"


# ---------------------------------------------------------------------------------------------
# Moved runs and moved data
# ---------------------------------------------------------------------------------------------


def test_a_moved_run_goes_on_with_moved_data_bit_for_bit(train, command, tiny_folder, tmp_path):
    assert train("--num_epochs", 4, "--out", "whole", "--dropout", 0.2)[0] == 0
    assert train("--num_epochs", 2, "--dropout", 0.2)[0] == 0
    shutil.copytree(tiny_folder, tmp_path / "elsewhere" / "data")
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "run")
    tiny_folder.rename(tmp_path / "gone")
    resume = ("training.py", "--resume", "--out", "elsewhere/run", "--num_epochs", 4)
    code, _, error = command(*resume)
    assert code == 2
    assert f"{tiny_folder}: no such data folder; give --data the place where it is now" in error
    code, out, error = command(*resume, "--data", "elsewhere/data")
    assert code == 0, error
    assert "resumed after epoch 2" in out
    assert "could not be checked" not in out
    assert_same_run(tmp_path / "whole", tmp_path / "elsewhere" / "run")
    settings = json.loads((tmp_path / "elsewhere" / "run" / "config.json").read_text())
    assert settings["data"] == str(tmp_path / "elsewhere" / "data"), "the new place is not kept"


def test_a_path_that_was_mended_by_hand_will_do(train, command, tiny_folder, tmp_path):
    assert train()[0] == 0
    tiny_folder.rename(tmp_path / "moved")
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace(str(tiny_folder), str(tmp_path / "moved")))
    code, _, error = command("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    assert code == 0, error


def swap(values):
    values[[0, 1]] = values[[1, 0]]
    return values


FEATURES = "{}2014_fixed_cnn_strips.h5"
OTHERS = {
    "a caption": ("train captions", lambda f: rewrite(f / CAPTIONS_FILE, "train_captions", swap)),
    "a word of val": (
        "val captions",
        lambda f: rewrite(f / CAPTIONS_FILE, "val_captions", at((3, 1), 3)),
    ),
    "whose caption it is": (
        "train captions",
        lambda f: rewrite(f / CAPTIONS_FILE, "train_image_idxs", at(0, 1)),
    ),
    "fewer captions": (
        "val captions",
        lambda f: [
            rewrite(f / CAPTIONS_FILE, f"val_{name}", lambda v: v[:-1])
            for name in ("captions", "image_idxs")
        ],
    ),
    "features": (
        "train features",
        lambda f: rewrite(f / FEATURES.format("train"), "features", lambda v: -v),
    ),
    "the order of images": (
        "val features",
        lambda f: rewrite(f / FEATURES.format("val"), "features", swap),
    ),
}


@pytest.mark.parametrize(("what", "change"), OTHERS.values(), ids=OTHERS)
def test_other_contents_are_refused(train, refuses, tiny_folder, tmp_path, what, change):
    assert train()[0] == 0
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    change(other)
    resume = ("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    refuses(*resume, "--data", other, says=(f"{other}: its {what} are not those of the run",))
    change(tiny_folder)  # in the old place as well
    refuses(*resume, says=(f"{tiny_folder}: its {what} are not those of the run", "--data"))


def test_a_split_that_is_gone_is_another_content(train, refuses, tiny_folder, tmp_path):
    import h5py

    assert train()[0] == 0
    with h5py.File(tiny_folder / CAPTIONS_FILE, "r+") as file:
        del file["val_captions"], file["val_image_idxs"]
    resume = ("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    refuses(*resume, says=("its val captions and features are not those of the run",))


def test_rounding_and_padding_are_no_other_contents(train, command, tiny_folder):
    """Another machine computes features that differ by rounding; float16 rounds more."""
    assert train()[0] == 0
    for split in ("train", "val"):
        path = tiny_folder / FEATURES.format(split)
        rewrite(path, "features", lambda v: v.astype(np.float16).astype(np.float32))
        rewrite(
            tiny_folder / CAPTIONS_FILE, f"{split}_captions", lambda v: np.pad(v, ((0, 0), (0, 3)))
        )
    code, _, error = command("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    assert code == 0, error


def test_other_words_are_refused(train, refuses, tmp_path):
    assert train()[0] == 0
    other = make_tiny_folder(tmp_path / "other", [*WORDS, "zebra"])
    resume = ("training.py", "--resume", "--out", "run", "--num_epochs", 2)
    refuses(*resume, "--data", other, says=("other", "another vocabulary"))


def test_samples_are_compared_as_they_were_drawn(train, command, refuses, tiny_folder, tmp_path):
    assert train("--num_samples", 5)[0] == 0
    moved = tiny_folder.rename(tmp_path / "moved")
    resume = ("training.py", "--resume", "--out", "run", "--num_epochs", 2, "--data", moved)
    assert command(*resume)[0] == 0
    refuses(*resume, "--num_samples", 6, says=("--num_samples: the run", "has 5, found 6"))


def test_a_moved_start_is_compared_too(train, command, refuses, tmp_path):
    assert train("--out", "first")[0] == 0
    assert train("--out", "other", "--seed", 1)[0] == 0
    assert train("--init", "first")[0] == 0
    (tmp_path / "first").rename(tmp_path / "renamed")
    resume = ("training.py", "--resume", "--out", "run", "--num_epochs")
    refuses(*resume, 2, "--init", "other", says=("--init", "is not what the run started from"))
    assert command(*resume, 2)[0] == 0, "the start is not needed any more"
    assert command(*resume, 3, "--init", "renamed")[0] == 0


def test_a_run_without_its_last_file_is_not_begun_again_in_its_place(train, refuses, tmp_path):
    assert train("--num_epochs", 2)[0] == 0
    (tmp_path / "run" / "last.npz").unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    resume = ("training.py", "--resume", "--out", "run")
    refuses(*resume, says=("last.npz: is not there any more", "--init run and another --out"))
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_that_was_killed_in_its_first_epoch_begins_again_and_says_so(
    train, command, tmp_path
):
    assert train()[0] == 0
    for name in ("last.npz", "metrics.jsonl"):
        (tmp_path / "run" / name).unlink()
    code, text, error = command("training.py", "--resume", "--out", "run")
    assert code == 0, error
    assert "run: no epoch was done yet; it starts from the beginning" in text


def test_a_cosine_is_not_laid_out_anew_in_the_middle(train, command, refuses):
    assert train("--schedule", "cosine", "--num_epochs", 2)[0] == 0
    resume = ("training.py", "--resume", "--out", "run")
    refuses(*resume, "--num_epochs", 3, says=("--num_epochs: the cosine", "2 epochs, found 3"))
    assert command(*resume, "--num_epochs", 2)[0] == 0


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        (("--num_heads", 2), (), "has --num_heads 2, found 4"),
        (("--activation", "gelu"), (), "has --activation gelu, found relu"),
        ((), ("--post_norm",), "has --post_norm False, found True"),
        (("--wordvec_dim", 16), (), "has --wordvec_dim 16, found 8"),
    ],
)
def test_a_start_computes_the_same(train, refuses, tiny_folder, first, then, says):
    model = ("--model", "transformer")
    assert train(*model, "--out", "first", *first)[0] == 0
    options = (*TINY, "--data", tiny_folder, *model, "--init", "first", *then)
    refuses("training.py", *options, "--out", "run", says=(f"--init {Path('first').resolve()}",))
    refuses("training.py", *options, "--out", "run", says=(says,))


def test_a_run_of_an_earlier_version_goes_on(train, command, tmp_path):
    """It noted nothing of its data, and knew fewer settings."""
    assert train("--num_epochs", 4, "--out", "whole")[0] == 0
    assert train("--num_epochs", 2)[0] == 0
    new = ("max_words", "min_count")
    config = tmp_path / "run" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({k: v for k, v in settings.items() if k not in new}))
    for name in ("last.npz", "best.npz"):
        checkpoint = load_checkpoint(tmp_path / "run" / name)
        checkpoint.data = {}
        checkpoint.settings = {k: v for k, v in checkpoint.settings.items() if k not in new}
        save_checkpoint(tmp_path / "run" / name, checkpoint)
    code, out, error = command("training.py", "--resume", "--out", "run", "--num_epochs", 4)
    assert code == 0, error
    assert "could not be checked" in out
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_projection_that_was_fitted_anew_differs_by_rounding():
    """The embedded data are made on each machine; other data have another projection."""
    rng = np.random.default_rng(0)
    arrays = {
        "pca_mean": rng.standard_normal(6).astype(np.float32),
        "pca_components": 1e-3 * rng.standard_normal((6, 4)).astype(np.float32),
    }
    checkpoint = Checkpoint("rnn", {}, [], {}, {"encoder": "fixed_cnn"}, arrays)

    def same(change, name="pca_components"):
        changed = arrays | {name: change(arrays[name])}
        return same_extractor(checkpoint, {"encoder": "fixed_cnn"}, changed)

    assert same(lambda x: x * np.float32(1 + 1e-6))
    assert not same(lambda x: x[:, ::-1])
    assert not same(lambda x: 1.01 * x)
    assert not same(lambda x: x + 0.01, "pca_mean")
    assert not same(lambda x: x[:, :3])
