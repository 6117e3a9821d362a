"""The fetch script, against a server on this machine and archives made for the purpose."""

from __future__ import annotations

import http.server
import threading
import zipfile

import fetch_coco
import pytest
from test_coco_utils import make_published

from core.coco_utils import load_coco_data


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small archive in the published layout, and what to expect in it."""
    folder = make_published(tmp_path / "coco_captioning")
    contents = {
        "coco2014_captions.h5": {"train_captions": (200, 17), "val_image_idxs": (50,)},
        "train2014_vgg16_fc7_pca.h5": {"features": (40, 512)},
        "val2014_vgg16_fc7.h5": {"features": (10, 4096)},
    }
    monkeypatch.setattr(fetch_coco, "CONTENTS", contents)
    monkeypatch.setattr(fetch_coco, "_VOCABULARY_SIZE", 30)
    path = tmp_path / "source.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in sorted(folder.iterdir()):
            zipped.write(file, f"coco_captioning/{file.name}")
    return path


@pytest.fixture
def server(archive):
    """Serves the archive; knows ranges, and can be told to break off."""

    class Handler(http.server.BaseHTTPRequestHandler):
        content = archive.read_bytes()
        ranges: list = []
        break_after: int | None = None
        knows_ranges = True

        def do_GET(self):
            wanted = self.headers.get("Range")
            Handler.ranges.append(wanted)
            start = 0
            if wanted and Handler.knows_ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(Handler.content):
                    self.send_error(416)
                    return
                self.send_response(206)
            else:
                self.send_response(200)
            body = Handler.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: Handler.break_after])

        def log_message(self, *arguments):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    Handler.url = f"http://127.0.0.1:{running.server_port}/coco_captioning.zip"
    yield Handler
    running.shutdown()
    thread.join()
    running.server_close()


def test_fetches_unpacks_and_verifies(command, server, tmp_path):
    out = tmp_path / "data" / "coco"
    code, text, error = command("fetch_coco", "--out", out, "--url", server.url)
    assert code == 0, error
    assert str(out) in text
    assert load_coco_data(out)["train_features"].shape == (40, 512)
    assert [p.name for p in out.parent.iterdir()] == ["coco"], "the archive was left behind"


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_that_broke_off_is_resumed(command, refuses, server, tmp_path, knows_ranges):
    out = tmp_path / "coco"
    server.knows_ranges = knows_ranges
    server.break_after = 1000
    refuses("fetch_coco", "--out", out, "--url", server.url, says=("same command again",))
    assert (tmp_path / "coco_captioning.zip.part").stat().st_size == 1000
    server.break_after = None
    code, _, error = command("fetch_coco", "--out", out, "--url", server.url)
    assert code == 0, error
    assert server.ranges == [None, "bytes=1000-"]
    assert load_coco_data(out)["val_captions"].shape == (50, 17)


def test_a_download_that_was_whole_but_not_yet_renamed(command, server, archive, tmp_path):
    (tmp_path / "coco_captioning.zip.part").write_bytes(archive.read_bytes())
    code, _, error = command("fetch_coco", "--out", tmp_path / "coco", "--url", server.url)
    assert code == 0, error


def test_no_answer_says_what_to_do(refuses, tmp_path):
    url = "http://127.0.0.1:9/coco_captioning.zip"
    refuses(
        "fetch_coco",
        "--out",
        tmp_path / "coco",
        "--url",
        url,
        says=(url, "does not answer", "--archive"),
    )


def test_a_full_disk_is_noticed_before_the_download(refuses, server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    refuses(
        "fetch_coco",
        "--out",
        tmp_path / "coco",
        "--url",
        server.url,
        says=("GB free", "--out"),
    )
    assert not (tmp_path / "coco_captioning.zip").exists()


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "coco_captioning/../../evil.txt"])
def test_paths_that_leave_the_folder_are_refused(refuses, archive, tmp_path, name):
    with zipfile.ZipFile(archive, "a") as zipped:
        zipped.writestr(name, "evil")
    out = tmp_path / "deep" / "coco"
    refuses("fetch_coco", "--out", out, "--archive", archive, says=(name, "leaves the folder"))
    assert not out.exists()
    assert not list(tmp_path.rglob("evil.txt"))
    assert archive.exists(), "the user's own archive was removed"


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("torn", [False, True])
def test_an_archive_of_another_compression(refuses, tmp_path, kind, torn):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w", kind) as zipped:
        zipped.writestr("a/x", bytes(range(256)) * 40)
    if torn:
        data = bytearray(path.read_bytes())
        data[60:90] = bytes(30)
        path.write_bytes(data)
    refuses("fetch_coco.py", "--archive", path, "--out", tmp_path / "out", says=("other.zip",))
    assert not (tmp_path / "out").exists()


def test_a_torn_archive(refuses, archive, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    out = tmp_path / "coco"
    refuses("fetch_coco", "--out", out, "--archive", archive, says=("not a whole zip",))
    assert not out.exists()


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"other.h5": {}}, "other.h5: is missing"),
        ({"val2014_vgg16_fc7.h5": {"features": (11, 4096)}}, "expected (11, 4096)"),
        ({"val2014_vgg16_fc7.h5": {"weights": (10, 4096)}}, "has no 'weights'"),
    ],
)
def test_other_contents_are_refused(refuses, archive, tmp_path, monkeypatch, contents, words):
    monkeypatch.setattr(fetch_coco, "CONTENTS", contents)
    out = tmp_path / "coco"
    refuses("fetch_coco", "--out", out, "--archive", archive, says=(words,))
    assert not out.exists()


def test_the_folder_is_taken(refuses, archive, tmp_path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "mine").touch()
    refuses(
        "fetch_coco",
        "--out",
        tmp_path / "coco",
        "--archive",
        archive,
        says=("is there already",),
    )
    refuses("fetch_coco", "--archive", "no.zip", "--out", tmp_path / "d", says=("no.zip",))
