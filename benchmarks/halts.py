"""Kills and interrupts real commands, and counts what they leave behind.

    python -m benchmarks.halts --kills 200 --interruptions 60 --seed 0

Four commands: a preparation of photos, a training, a training in the folder of an earlier run, and
captions with a report. Each is killed (SIGKILL) at each of its file operations, then at random
moments, and interrupted (SIGINT) at random moments from 10 ms on. The order is random, so that
Ctrl-C gives the counts of a sample. After each halt no file may be half-written; the next run must
end well, give what the uninterrupted one gave, bit for bit, and leave nothing behind. Exits 1 when
anything of that fails.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from core.checkpoint import load_checkpoint
from core.runs.lock import NEW_RUN
from core.support.command_line import ArgumentParser, non_negative_int, run_command

ROOT = Path(__file__).resolve().parent.parent
# Python imports this first. Before each file operation in the folder it counts; at one it dies.
HOOK = """
import os, signal, sys

KINDS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "open"}
folder, last, count = os.environ["HALT_IN"], int(os.environ["HALT_AT"]), 0


def hook(event, arguments):
    global count
    if event not in KINDS or not isinstance(arguments[0], (str, bytes)):
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    if os.path.abspath(os.fsdecode(arguments[0])).startswith(folder + os.sep):
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if last == 0:
            os.write(int(os.environ["HALT_LOG"]), b".")


sys.addaudithook(hook)
"""
_SMALL = "--model lstm --hidden_dim 8 --wordvec_dim 8 --num_epochs 4 --batch_size 16 --dropout 0.2"
_PHOTOS, _SIZE = 60, 24
_SECONDS = 120  # for one command
_OF_TIME = {"seconds", "tokens_per_second", "learning_seconds"}


@dataclass
class Job:
    """A command that is halted.

    - words: after ``python``
    - before: folders that are there when it starts, of what earlier jobs made
    - made: what it makes
    - resume: options with which a run goes on
    """

    words: str
    before: tuple[str, ...]
    made: tuple[str, ...]
    resume: str = ""
    seconds: float = 0.0
    operations: int = 0


JOBS = {
    "preparation": Job(
        "-m core.flickr8k --root photos --out data --encoder tiny_cnn --weights random --pca 4 "
        "--min_count 1",
        ("photos",),
        ("data",),
    ),
    "training": Job(
        f"training.py {_SMALL} --data data --out run", ("data",), ("run",), "--resume --out run"
    ),
    "training over another": Job(
        f"training.py {_SMALL} --data data --out run --seed 1",
        ("data", "run"),
        ("run", "run.old1"),
        "--resume --out run",
    ),
    "captions": Job(
        "inference.py --checkpoint run --split val --out c.json --report r.html --figure f.png",
        ("data", "run", "photos"),
        ("c.json", "r.html", "f.png"),
    ),
}


@dataclass
class Count:
    """What happened: how the halted commands ended, and what was wrong after it."""

    ends: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------


def start(words: str, folder: Path, hook: Path | None = None, at: int = 0, log: int = -1):
    """A command in a folder, with the hook that counts and kills, where one is given."""
    first, *others = words.split()
    first = str(ROOT / first) if first.endswith(".py") else first
    paths = [str(path) for path in (hook, ROOT) if path]
    return subprocess.Popen(
        [sys.executable, first, *others],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "HALT_IN": str(folder),
            "HALT_AT": str(at),
            "HALT_LOG": str(log),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_listen,
        pass_fds=[log] if log >= 0 else [],
        text=True,
    )


def _listen() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ended(process) -> tuple[int, str]:
    """The exit code of a command and what it said on stderr."""
    try:
        _, said = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
        return -999, f"did not end in {_SECONDS} seconds: {said}"
    return process.returncode, said


def make_photos(folder: Path) -> None:
    """A photo folder: small pictures of noise with two captions each."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    lines = ["image,caption"]
    for i in range(_PHOTOS):
        pixels = rng.integers(0, 256, (_SIZE, _SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        for _ in range(2):
            words = rng.choice(["a", "dog", "cat", "runs", "sits", "red"], rng.integers(2, 6))
            lines.append(f"{i:02}.png,{' '.join(words)}")
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")


def prepared(folder: Path, job: Job, store: Path) -> Path:
    """An empty folder with what is there before a job."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in job.before:
        shutil.copytree(store / name, folder / name)
    return folder


# ---------------------------------------------------------------------------------------------
# What is left
# ---------------------------------------------------------------------------------------------


def files_below(folder: Path) -> Iterator[Path]:
    """All files, but those of folders whose names say that they are not finished."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def contents(path: Path):
    """What a file says, without times; raises an error of some kind when it is not whole."""
    if path.suffix == ".npz":
        checkpoint = load_checkpoint(path)
        training = dict(checkpoint.training)
        training["history"] = [_without_time(row) for row in training.get("history", [])]
        arrays = dict(checkpoint.params)
        for name, config in checkpoint.optimizer.items():
            arrays |= {f"{name}/{key}": np.asarray(value) for key, value in config.items()}
        return json.dumps(training), {k: (v.dtype.str, v.tobytes()) for k, v in arrays.items()}
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return {name: file[name][()].tobytes() for name in file}
    if path.suffix == ".png":
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        return None if path.name == "loss.png" else pixels.tobytes()
    if path.suffix == ".jsonl":
        return [_without_time(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        return None if path.name == "photos.json" else value  # times of files
    if path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("has no end")
    return path.read_bytes()


def _without_time(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in _OF_TIME}


def half_written(folder: Path) -> list[str]:
    """Files that are there and cannot be read."""
    found = []
    for path in files_below(folder):
        try:
            contents(path)
        except Exception as error:  # whatever a reader raises
            found.append(f"{path.relative_to(folder)} is not whole: {error}")
    return found


def differences(folder: Path, store: Path, job: Job) -> list[str]:
    """What is not as the uninterrupted command made it, or is too much."""
    found = [
        f"{path.relative_to(folder)} is left behind"
        for path in folder.rglob(".*")
        if path.parent == folder or not path.parent.name.startswith(".")
    ]
    expected = {*job.before, *job.made}
    found += [f"{p.name} is too much" for p in folder.iterdir() if p.name not in expected]
    for name in job.made:
        for path in files_below(store / name) if (store / name).is_dir() else [store / name]:
            mine = folder / path.relative_to(store)
            if not mine.is_file():
                found.append(f"{mine.relative_to(folder)} is missing")
            elif contents(mine) != contents(path):
                found.append(f"{mine.relative_to(folder)} is another than without the halt")
    return found


def go_on(job: Job, folder: Path) -> list[str]:
    """The next run, as a person would start it; what is wrong with how it ends."""
    words = job.words
    if job.resume and not (folder / "run.old1").exists() and "run" in job.before:
        # Nobody knows whether the new run has begun: the one to resume must not be the earlier.
        code, said = ended(start(f"training.py {job.resume}", folder))
        if (folder / "run" / NEW_RUN).exists():
            if code != 2 or NEW_RUN not in said or said.count("\n") != 1:
                return [f"the earlier run was resumed as the new one: {code} {said}"]
        elif code:
            return [f"the run that is there cannot be resumed: {code} {said}"]
    elif job.resume and (folder / "run" / "config.json").is_file():
        words = f"training.py {job.resume}"
    if job.made == ("data",) and (folder / "data").exists():
        code, said = ended(start(words, folder))  # it was there: refused, in a line
        return [] if code == 2 and said.count("\n") == 1 else [f"{code} {said}"]
    code, said = ended(start(words, folder))
    return [f"the next run ended with {code}: {said}"] if code else []


def halt(name: str, job: Job, folder: Path, hook: Path, count: Count, how, at) -> None:
    """Starts a job, halts it at a moment (seconds) or an operation (number), and looks."""
    process = start(job.words, folder, hook, at if isinstance(at, int) else -1)
    if not isinstance(at, int):
        time.sleep(at)
        process.send_signal(how)
    code, said = ended(process)
    where = f"{name}, {signal.Signals(how).name} at {at if isinstance(at, int) else f'{at:.3f} s'}"
    faults = half_written(folder)
    if code in (0, -signal.SIGKILL):
        end = "killed" if code else "was done before"
        faults += [f"said {said!r}"] if said and code == 0 else []
    elif code == 130 and said == "interrupted\n":
        end = "one line, 130"
    elif how == signal.SIGINT and (code == -signal.SIGINT or "core" not in said):
        end = "Python itself had not started"
    else:
        end = f"exit code {code}"
        faults.append(f"{code}: {said}")
    count.ends[end] += 1
    if end == "one line, 130":
        parts = [p for p in folder.rglob(".*.part*") if ".parts" not in str(p.parent)]
        faults += [f"{path.name} is left behind at once" for path in parts]
    count.faults += [f"{where}: {fault}" for fault in faults + go_on(job, folder)]


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def reference(job: Job, folder: Path, store: Path, hook: Path) -> None:
    """Runs a job to its end; keeps what it made, how long it took, how often it wrote."""
    reader, writer = os.pipe()
    begin = time.monotonic()
    code, said = ended(start(job.words, folder, hook, 0, writer))
    job.seconds = time.monotonic() - begin
    os.close(writer)
    with open(reader, "rb") as log:
        job.operations = len(log.read())
    if code:
        raise ValueError(f"{job.words}: ended with {code} without any halt: {said}")
    for name in job.made:
        target = store / name
        if target.exists():
            continue
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy2
        copy(folder / name, target)


def main() -> int:
    parser = ArgumentParser(prog="python -m benchmarks.halts", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=non_negative_int, default=200, metavar="K")
    parser.add_argument("--interruptions", type=non_negative_int, default=60, metavar="K")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary).resolve()
        hook, store = base / "hook", base / "store"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK)
        store.mkdir()
        make_photos(store / "photos")
        # What a new run makes in the folder of another has the same names: a store of its own.
        stores = {name: store for name in JOBS}
        stores["training over another"] = base / "over"
        (base / "over").mkdir()
        work = base / "work"
        for name, job in JOBS.items():
            reference(job, prepared(work, job, store), stores[name], hook)
            print(f"{name}: {job.seconds:.1f} s, {job.operations} file operations", flush=True)
        at_operations = [
            (name, at)
            for at in range(1, 1 + max(job.operations for job in JOBS.values()))
            for name, job in JOBS.items()
            if at <= job.operations
        ]
        at_moments = (
            (name, rng.uniform(0.01, JOBS[name].seconds)) for name in itertools.cycle(JOBS)
        )
        kills = itertools.islice(itertools.chain(at_operations, at_moments), options.kills)
        planned = [(signal.SIGKILL, *each) for each in kills]
        more = itertools.islice(at_moments, options.interruptions)
        planned += [(signal.SIGINT, *each) for each in more]
        rng.shuffle(planned)  # what is done before a Ctrl-C is a sample of all
        counts = {signal.SIGKILL: Count(), signal.SIGINT: Count()}
        try:
            for number, (how, name, at) in enumerate(planned, 1):
                job, count = JOBS[name], counts[how]
                before = len(count.faults)
                halt(name, job, prepared(work, job, store), hook, count, how, at)
                if len(count.faults) == before:
                    found = differences(work, stores[name], job)
                    count.faults += [f"{name}, {how.name} at {at}: {each}" for each in found]
                for fault in count.faults[before:]:
                    print(fault, flush=True)
                if number % 20 == 0:
                    print(f"{number} of {len(planned)} halts", flush=True)
        finally:  # Ctrl-C: of what there is so far
            for how, count in counts.items():
                ends = ", ".join(f"{number} {end}" for end, number in count.ends.most_common())
                print(f"{how.name}: {count.ends.total()} ({ends}); faults: {len(count.faults)}")
    return int(any(count.faults for count in counts.values()))


if __name__ == "__main__":
    run_command(main)
