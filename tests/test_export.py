"""A model that is passed on: one file in two formats, its card, and its way over the network."""

from __future__ import annotations

import http.server
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import free_port
from PIL import Image

from core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.encoders.extractor import PREPROCESSING
from core.encoders.weights import load_network
from core.models import build_model
from core.runs import fetching
from core.runs.fetching import cache_folder
from core.support.files import hash_of_file
from core.support.safetensors import read_places, write_arrays

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "cat", "dog", "runs", "sits"]


def trained(encoder="fixed_cnn", output="strips", width=665, weights=None):
    """What a run has left, but for the training."""
    config = {"input_dim": width, "wordvec_dim": 5, "hidden_dim": 4, "dtype": "float32"}
    params = build_model("lstm", config, WORDS, rng=np.random.default_rng(1)).params
    extractor = {
        "encoder": encoder,
        "output": output,
        "preprocessing": PREPROCESSING[encoder],
        "weights": weights,
        "sha256": weights,
    }
    settings = {"model": "lstm", "data": "/home/me/secret/flickr", "weights": "/home/me/secret/w"}
    settings |= {"finetune_encoder": 0, "num_epochs": 3, "bucketed": True, "learning_rate": 0.01}
    training = {"epoch": 2, "max_length": 6, "history": [], "loss_history": [1.0]}
    optimizer = {name: {"m": np.ones_like(x)} for name, x in params.items()}
    return Checkpoint(
        "lstm", config, WORDS, params, extractor, {}, settings, training, optimizer
    )  # fmt: skip


SAID = [
    {
        "image_id": i,
        "file_name": f"{i}.jpg",
        "caption": f"a cat {i % 3}",
        "references": ["a | <UNK> dog"],
    }
    for i in range(30)
]


@pytest.fixture
def run(tmp_path):
    """A run folder, and captions."""
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "best.npz", trained())
    rows = [
        {"epoch": e, "train_loss": 1, "val_perplexity": 7.0 + e, "BLEU-4": 21.5} for e in (1, 2)
    ]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "run" / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "c.json").write_text(json.dumps(SAID), encoding="utf-8")
    return tmp_path / "run"


def exported(command, name, *options) -> str:
    how = ("--checkpoint", "run", "--captions", "c.json", "--out", name)
    code, out, error = command("core.runs.export", *how, *options)
    assert code == 0, error
    return out


def test_both_formats_hold_the_same_and_no_place_of_this_machine(command, run, tmp_path):
    exported(command, "m.npz")
    exported(command, "m.safetensors")
    before, one, other = map(
        load_checkpoint, (run / "best.npz", tmp_path / "m.npz", tmp_path / "m.safetensors")
    )
    for each in (one, other):
        assert each.params.keys() == before.params.keys()
        for name, x in before.params.items():
            np.testing.assert_array_equal(each.params[name], x, strict=True)
        assert (each.config, each.idx_to_word) == (before.config, before.idx_to_word)
        assert (each.optimizer, each.training) == ({}, {"epoch": 2, "max_length": 6})
        assert each.settings["data"] == "flickr"
    for name in ("m.npz", "m.safetensors", "m.npz.md"):
        assert b"secret" not in (tmp_path / name).read_bytes()


def test_the_card_is_in_the_file_and_beside_it(command, run, tmp_path):
    people = {f"{i}.jpg": ["a cat", "..."[i:]] for i in range(30)}
    (tmp_path / "r.json").write_text(json.dumps(people))
    told = ("--licence", "CC0", "--wrong", "Dogs become cats.", "--references", "r.json")
    exported(command, "m.npz", *told)
    beside = (tmp_path / "m.npz.md").read_text(encoding="utf-8")
    card = load_checkpoint(tmp_path / "m.npz").card
    assert beside.startswith(card)
    assert hash_of_file(tmp_path / "m.npz") in beside
    for words in (
        "Licence: CC0",
        "Dogs become cats.",
        "after epoch 2",
        "perplexity in validation 9, BLEU-4 21.5",
        "Of 30 captions 3 are different",
        "python training.py --model lstm --data flickr",
        "--num_epochs 3 --bucketed --learning_rate 0.01",
        "python -m core.metrics --candidates c.json --references r.json",
        "Captions of 30 of 30 images, from 0 to 100 and CIDEr-D to 1,000: BLEU-1 ",
        "Note: 30 of the 60 references have no words.",
        "| 27.jpg | a cat 0 | a \\| &lt;UNK> dog |",
    ):
        assert words in card
    assert "Licence: not known" in exported_card(command, tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": "/home/me/shapes"}, "`./shapes`, 12 photos to train on. "),
        ({"data": "shapes"}, "The embedded pictures of coloured shapes"),
        ({}, "`flickr`, 12 photos to train on. "),
        ({"flip": True}, "`flickr`, 12 photos to train on, and in a mirror, too. "),
        ({"flip": True, "finetune_encoder": 2}, "`flickr`, 12 photos to train on. "),
        ({"flip": True, "num_samples": 5}, "`flickr`, 5 captions to train on. "),
    ],
)
def test_the_card_counts_the_photos_that_were_trained_on(command, run, tmp_path, settings, says):
    before = trained()
    contents = {"train": {"captions": "", "shape": [30, 665], "photos": 12, "features": []}}
    mirrored = replace(before, settings=before.settings | settings, data=contents)
    save_checkpoint(run / "best.npz", mirrored)
    assert says in exported_card(command, tmp_path)


def test_scores_of_a_row_are_of_the_search_that_made_them(command, run, tmp_path):
    says = "captions are of 3 beams, and of at most 500 images): perplexity in validation"
    assert says in exported_card(command, tmp_path)


def exported_card(command, folder) -> str:
    exported(command, "plain.npz")
    return (folder / "plain.npz.md").read_text(encoding="utf-8")


def test_without_captions_the_line_says_how_to_make_them(refuses, run):
    how = ("core.runs.export", "--checkpoint", "run", "--out", "m.npz")
    refuses(*how, says=("python inference.py --checkpoint run --split val --out captions.json",))
    refuses(*how[:-1], "m.pt", says=("--out m.pt", ".npz or .safetensors"))
    some = [{"image_id": 1, "caption": "a", "references": "no list"}]
    (run.parent / "c.json").write_text(json.dumps(some), encoding="utf-8")
    refuses(*how, "--captions", "c.json", says=("references of 1", "expected a list"))


def test_half_the_room_where_the_numbers_fit(command, refuses, run, tmp_path):
    exported(command, "m.safetensors", "--dtype", "float16")
    before = load_checkpoint(run / "best.npz").params
    for name, x in load_checkpoint(tmp_path / "m.safetensors").params.items():
        np.testing.assert_array_equal(x, before[name].astype(np.float16), strict=True)
    large = before | {"Wh": before["Wh"] + 1e5}
    save_checkpoint(run / "best.npz", replace(trained(), params=large))
    how = ("--checkpoint", "run", "--captions", "c.json", "--out", "l.npz", "--dtype", "float16")
    refuses("core.runs.export", *how, says=("--dtype float16: Wh", "take a larger type"))


@pytest.mark.parametrize("name", ["m.npz", "m.safetensors"])
def test_an_exported_model_captions_a_photo(command, run, tmp_path, name):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (80, 90, 3), np.uint8)).save(tmp_path / "p.png")
    exported(command, name)
    said = [
        command("inference.py", "--checkpoint", which, "--image", "p.png")
        for which in ("run", name)
    ]
    assert said[0] == said[1]
    assert said[0][0] == 0


def test_the_encoder_goes_with_it_or_is_named(command, refuses, run, tmp_path):
    Image.fromarray(np.full((70, 70, 3), 90, np.uint8)).save(tmp_path / "p.png")
    torch.save(load_network("squeezenet1_1", "random").state_dict(), tmp_path / "w.pth")
    there = trained("squeezenet1_1", "pooled", 512, str(tmp_path / "w.pth"))
    digest = there.extractor["sha256"] = hash_of_file(tmp_path / "w.pth")
    save_checkpoint(run / "best.npz", there)
    exported(command, "with.npz")
    exported(command, "without.npz", "--no_encoder")
    assert "The encoder is in the file" in load_checkpoint(tmp_path / "with.npz").card
    assert f"Their SHA-256 is `{digest}`" in load_checkpoint(tmp_path / "without.npz").card
    how = ("inference.py", "--image", "p.png", "--checkpoint")
    card = load_checkpoint(tmp_path / "without.npz").card
    assert "--checkpoint without.npz --image photo.jpg --weights w.pth" in card
    before = command(*how, "run")
    again = ("core.runs.export", "--captions", "c.json", "--checkpoint", "with.npz", "--out")
    assert command(*again, "new/again.npz", "--no_encoder")[0] == 0
    assert not load_checkpoint(tmp_path / "new" / "again.npz").encoder_state
    refuses(*again, "x.npz", "--weights", "w.pth", says=("--weights w.pth", "leave"))
    (tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    assert before[0] == 0
    assert command(*how, "with.npz") == before
    refuses(*how, "with.npz", "--weights", "moved.pth", says=("--weights moved.pth", "leave"))
    assert command(*how, "without.npz", "--weights", "moved.pth") == before
    refuses(*how, "without.npz", says=("w.pth: no such weight file",))


def test_an_encoder_that_learned_stays_in_the_file(command, refuses, run):
    there = trained("squeezenet1_1", "pooled", 512, "w.pth")
    params = there.params | {"encoder.features.0.weight": np.ones((2, 3))}
    learned = replace(there, params=params, settings=there.settings | {"finetune_encoder": 2})
    save_checkpoint(run / "best.npz", learned)
    how = ("core.runs.export", "--checkpoint", "run", "--captions", "c.json", "--out", "m.npz")
    refuses(*how, "--no_encoder", says=("--no_encoder", "learned"))


@pytest.mark.parametrize(
    ("extractor", "says"),
    [
        (None, ("m.npz --data DIR --split val", "the vocabulary is in the file")),
        (
            {"encoder": "given", "shape": [665], "made_by": {"model": "clip"}},
            ("m.npz --image photo.jpg --features FILE.h5",),
        ),
    ],
)
def test_the_command_of_a_card_is_one_that_runs(command, run, tmp_path, extractor, says):
    before = trained()
    if extractor:
        extractor = before.extractor | extractor | {"output": "pooled"}
    save_checkpoint(run / "best.npz", replace(before, extractor=extractor))
    exported(command, "m.npz")
    for words in says:
        assert words in load_checkpoint(tmp_path / "m.npz").card


def test_training_goes_on_from_a_model_that_brings_a_frozen_encoder(command, tiny_folder, tmp_path):
    how = ("training.py", "--model", "lstm", "--data", tiny_folder, "--num_epochs", 1)
    assert command(*how, "--out", "run")[0] == 0
    there = load_checkpoint(tmp_path / "run" / "best.npz")
    brought = there.params | {"encoder.features.0.weight": np.ones((2, 3))}
    save_checkpoint(tmp_path / "m.npz", replace(there, params=brought))
    code, _, error = command(*how, "--out", "on", "--init", "m.npz")
    assert code == 0, error
    assert load_checkpoint(tmp_path / "on" / "best.npz").params.keys() == there.params.keys()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_flipped_bit_is_no_other_model(tmp_path, suffix):
    whole = replace(trained(), card="# a card", optimizer={}, training={})
    path = tmp_path / f"m{suffix}"
    save_checkpoint(path, whole)
    assert load_checkpoint(path).card == "# a card"
    data, rng = path.read_bytes(), np.random.default_rng(3)
    for place in rng.choice(len(data), 60, replace=False):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            found = load_checkpoint(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
        else:  # what no reader reads, as the time in a zip
            assert suffix == ".npz"
            for name, x in whole.params.items():
                np.testing.assert_array_equal(found.params[name], x)


# -- safetensors -------------------------------------------------------------------------------


ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "single": np.arange(5, dtype=np.float32),
    "double": np.array(2.5),
    "none": np.zeros((0, 4), np.float32),
    "count": np.array([1, -2]),
    "bytes": np.arange(3, dtype=np.uint8),
}


def test_other_readers_read_what_is_written(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        write_arrays(file, ARRAYS, {"a": "text"})
    theirs = package.load_file(path)
    assert theirs.keys() == ARRAYS.keys()
    for name, x in ARRAYS.items():
        np.testing.assert_array_equal(theirs[name], x, strict=True)
    package.save_file(ARRAYS, path, {"a": "text"})
    with open(path, "rb") as file:
        places, texts = read_places(file)
    assert places.keys() == ARRAYS.keys()
    assert texts == {"a": "text"}


def entry(start, stop, shape=(4,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"x": entry(0, 16), "y": entry(8, 24)}, "'y' begins at 8, expected 16"),
        ({"x": entry(0, 16), "y": entry(16, 32), "z": entry(0, 16)}, "begins at 0, expected 16"),
        ({"x": entry(4, 20)}, "'x' begins at 4, expected 0"),
        ({"x": entry(0, 16, (5,))}, "'x' is not as long as it says"),
        ({"x": entry(0, 16, (2**61, 2**61))}, "'x' is not as long as it says"),
        ({"x": entry(0, 16)}, "it has [0-9]+ bytes, its header tells of"),
        ({"x": entry(0, 64)}, "'x' is not as long as it says"),
        ({"x": entry(0, 32, (8, -1))}, "shape entry 1 is -1"),
        ({"x": entry(32, 0, (8,))}, "begins at 32"),
        ({"x": entry(0, 32, (16,), "BF16")}, "dtype is 'BF16'"),
        ({"x": [0, 32]}, "is a list of 2|is an object|expected an object"),
        ({"x": {"dtype": "F32"}}, "has no shape"),
        ({"x": entry(0, 32, (8,)), "__metadata__": {"a": 1}}, "its texts: 'a' is 1"),
        ('{"x": 1, "x": 2}', "a name is twice"),
        ("{" + '"x":[' * 100_000, "its header is no JSON"),
        ("{", "its header is no JSON"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, words):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(32))
    with open(path, "rb") as file, pytest.raises(ValueError, match=words):
        read_places(file)
    with pytest.raises(ValueError, match="is not a whole checkpoint") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    path.write_bytes((2**63).to_bytes(8, "little") + text)
    with open(path, "rb") as file, pytest.raises(ValueError, match="its header claims"):
        read_places(file)


# -- by an address -----------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder; what it was asked for is in ``asked``."""
    served = tmp_path / "served"
    served.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=served)

        def log_message(self, *_):
            asked.append(self.path)

        def do_GET(self):
            if self.path.startswith("/torn"):
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
            elif self.path.startswith("/on"):
                self.send_response(302)
                self.send_header("Location", f"ftp://127.0.0.1{self.path[3:]}")
                self.end_headers()
            else:
                super().do_GET()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.asked, server.folder = asked, served
        server.address = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.full((70, 70, 3), 90, np.uint8)).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_a_model_by_its_address_is_fetched_once(command, refuses, run, server, photo):
    exported(command, "served/m.npz")
    digest, url = hash_of_file(server.folder / "m.npz"), f"{server.address}/m.npz"
    _, there, _ = command("inference.py", "--checkpoint", "served/m.npz", "--image", photo)
    how = ("inference.py", "--image", photo, "--checkpoint")
    refuses(*how, f"{url}#sha256={'0' * 64}", says=(f"SHA-256 {digest[:12]}", "expected 0000"))
    assert not list(cache_folder().glob("*"))
    code, out, error = command(*how, f"{url}#sha256={digest}")
    assert code == 0, error
    kept = next(cache_folder().iterdir())
    assert f"fetched from {url}, kept in {kept}" in out
    assert out.endswith(there)
    count = len(server.asked)
    code, out, _ = command(*how, url)
    assert (code, len(server.asked)) == (0, count)
    assert f"the copy of {url} in {kept}" in out
    refuses(*how, f"{url}#sha256={'0' * 64}", says=("expected 0000", f"remove {kept}"))


def test_what_is_no_model_on_the_network_is_one_line(refuses, server, photo, monkeypatch, run):
    how = ("inference.py", "--image", photo, "--checkpoint")
    (server.folder / "page.npz").write_bytes(b"<html>")
    refuses(*how, f"{server.address}/page.npz", says=("is not a whole checkpoint", "/page.npz: "))
    assert not list(cache_folder().glob("*"))
    for place, words in {
        "ftp://127.0.0.1/m.npz": "expected an address http://",
        f"file://{run}/best.npz": "expected an address http://",
        "http://me:secret@127.0.0.1/m.npz": "without a user's name",
        "http:///m.npz": "expected an address",
        "http://[/m.npz": "is no address",
        f"{server.address}/m.zip": "ends in .npz or .safetensors",
        f"{server.address}/m.npz#md5=1": "expected #sha256=",
        f"{server.address}/none.npz": "the server answers 404",
        f"{server.address}/torn.npz": "10 bytes came of 1,000",
        f"{server.address}/on/m.npz": "it leads on to ftp://",
        f"http://127.0.0.1:{free_port()}/m.npz": "are you online?",
    }.items():
        refuses(*how, place, says=(words, "--checkpoint"))
    (server.folder / "large.npz").write_bytes(b"x" * 100)
    monkeypatch.setattr(fetching, "_LARGEST", 99)
    refuses(*how, f"{server.address}/large.npz", says=("announces 100 bytes, at most 99",))
