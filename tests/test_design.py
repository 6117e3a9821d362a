"""What the layout promises: who may import whom, what decoding knows of a model, how much is read.

Every rule is a function from sources, module name -> text, to the faults that it finds. So each is
tried on the code as it is, which has none, and on a line that breaks the rule.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = ("core.layers", "core.rnn_layers", "core.attention_layers", "core.transformer_layers")
# What a learner reads; a name that ends in a dot stands for all modules of a package.
READ = (
    *LAYERS,
    "core.models.",
    "core.optim",
    "core.captioning_solver",
    "core.decoding",
    "core.gradient_check.differences",
    "core.gradient_check.checking",
)
BUDGET = 3500  # lines

THREADS = ("threading", "concurrent.futures", "threadpoolctl", "multiprocessing", "_thread")
USERS_OF_CORE = ("training", "inference", "tests", "conftest", "notebooks", "benchmarks")
IMPORTERS = ("import_module", "__import__")
USES_OF_A_MODEL = {
    *("begin", "step", "select"),
    *("null", "start", "end", "unknown", "max_length"),
}
IMPORT_TORCH = ("core.gradient_check.referee", "core.encoders.", "core.torch_models.")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {name_of(path): path for path in sorted(ROOT.glob("core/**/*.py"))}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in PATHS.items()}
PACKAGES = {name for name, path in PATHS.items() if path.name == "__init__.py"}


def among(name: str, names: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or in a package that is."""
    return any(f"{name}.".startswith(f"{each.rstrip('.')}.") for each in names)


# -- imports -----------------------------------------------------------------------------------


@cache
def imports(module: str, source: str, inside: bool = True) -> list[str]:
    """All that a module imports; ``from a import b`` is a and a.b, or a.b where that is a module.

    ``inside``: also what functions import, and what is imported for type checkers alone.
    """
    package = module if module in PACKAGES else module.rpartition(".")[0]
    found, waiting = [], [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if not inside and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if not inside and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1])
                origin = f"{base}.{origin}".rstrip(".")
            names = [f"{origin}.{alias.name}" for alias in node.names]
            found += names if set(names) <= PATHS.keys() else [origin, *names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(IMPORTERS):
            found += [str(each.value) for each in node.args if isinstance(each, ast.Constant)]
    return found


def reached(module: str, sources: Mapping[str, str]) -> Iterator[str]:
    """All that a module imports, itself or through other modules of core."""
    seen, waiting = set(), [module]
    while waiting:
        for name in imports(module := waiting.pop(), sources[module]):
            if name not in seen:
                seen.add(name)
                yield name
                if name in sources:
                    waiting.append(name)


def forbidden(modules, never, sources, found=lambda name, sources: imports(name, sources[name])):
    """'module imports name' for each of ``modules`` that imports what it never may."""
    return [
        f"{module} imports {name}"
        for module in sources
        if among(module, modules)
        for name in found(module, sources)
        if among(name, never)
    ]


def with_line(module: str, line: str) -> dict[str, str]:
    return SOURCES | {module: f"{SOURCES[module]}\n\n{textwrap.dedent(line)}"}


IN_A_FUNCTION = "def f():\n    from core import fast\n"


@pytest.mark.parametrize("module", [*LAYERS, "core.models."])
def test_layers_and_plain_models_know_nothing_of_speed(module):
    def faults(sources):
        return forbidden((module,), ("core.fast", *THREADS), sources, reached)

    assert [name for name in SOURCES if among(name, (module,))]
    assert faults(SOURCES) == []
    spoilt = {"core.models.": "core.models.base"}.get(module, module)
    for line in (
        IN_A_FUNCTION,
        "from core.fast.packing import Packing",
        "import threading",
        "from concurrent.futures import ThreadPoolExecutor",
        "import concurrent.futures as futures",
        "from importlib import import_module\nimport_module('core.fast.threads')",
    ):
        assert faults(with_line(spoilt, line)), line
    assert faults(with_line("core.layers", "import threadpoolctl"))  # through another module


def test_no_file_that_is_read_imports_the_fast_twins():
    assert forbidden(READ, ("core.fast",), SOURCES, reached) == []
    spoilt = with_line("core.captioning_solver", IN_A_FUNCTION)
    assert forbidden(READ, ("core.fast",), spoilt, reached)
    spoilt = with_line("core.coco_utils.batches", "import core.fast.images")
    assert "core.captioning_solver imports core.fast.images" in forbidden(
        READ, ("core.fast",), spoilt, reached
    )


def test_nothing_in_core_imports_what_is_built_on_it():
    def faults(sources):
        tests = [
            f"{module} imports {name}"
            for module, source in sources.items()
            for name in imports(module, source)
            if name.startswith("test_")
        ]
        return tests + forbidden(("core",), USERS_OF_CORE, sources)

    assert faults(SOURCES) == []
    for line in (
        "def main():\n    import training",
        "from inference import main",
        "from test_models import build",
        "import benchmarks.train_step",
        "from notebooks import build",
    ):
        assert faults(with_line("core.reproduce", line)), line


def test_torch_is_imported_at_the_start_by_its_own_parts_alone():
    def faults(sources):
        return [
            module
            for module, source in sources.items()
            if not among(module, IMPORT_TORCH)
            if any(among(name, ("torch",)) for name in imports(module, source, inside=False))
        ]

    assert faults(SOURCES) == []
    assert faults(with_line("core.optim", "from torch import nn")) == ["core.optim"]
    assert faults(with_line("core.optim", "def f():\n    import torch")) == []


def imported_torch(modules, *path) -> list[str]:
    """Those of the modules after whose import, one after the other, torch is there."""
    code = f"""
    import importlib, sys
    for name in {list(modules)}:
        importlib.import_module(name)
        if "torch" in sys.modules:
            print(name)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))},
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.split()


def test_models_and_solver_are_there_without_torch(tmp_path):
    (tmp_path / "torch.py").touch()  # quicker to import than the real one
    (tmp_path / "slow.py").write_text("import torch")
    modules = "core.models", "core.fast", "core.captioning_solver", "core.decoding"
    assert imported_torch((*modules, "slow"), tmp_path) == ["slow"]


# -- circles -----------------------------------------------------------------------------------


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules of core that import each other at the top, in a ring; [] when there are none."""
    edges = {
        module: sorted(
            {n for n in imports(module, source, inside=False) if n in sources} - {"core"}
        )
        for module, source in sources.items()
    }
    done: set[str] = set()

    def look(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        found = next((c for n in edges[module] if (c := look(n, [*way, module]))), [])
        done.add(module)
        return found

    return next((found for module in edges if (found := look(module, []))), [])


def test_no_modules_import_each_other():
    assert circle(SOURCES) == []
    assert circle(with_line("core.layers", "from core import decoding"))
    assert circle(with_line("core.layers", "import core.models.base"))
    assert circle(with_line("core.models.base", "from core.models import MODELS"))
    assert circle(with_line("core.models.base", "from . import build"))
    # what a function imports is there by then
    assert circle(with_line("core.layers", "def f():\n    from core import decoding")) == []


# -- the solver --------------------------------------------------------------------------------

WRITERS = {
    *("open", "print", "write", "writelines", "write_text", "write_bytes", "mkdir", "touch"),
    *("save", "savez", "savez_compressed", "savetxt", "tofile", "dump", "savefig", "imsave"),
}
WRITING = (
    *("core.checkpoint", "core.runs", "core.show", "core.support.files", "core.image_utils"),
    *("matplotlib", "PIL", "h5py", "pathlib", "os", "io", "shutil", "tempfile", "json", "logging"),
)


def writes(sources: Mapping[str, str]) -> list[str]:
    """What the solver imports or calls that could write a file or a picture."""
    solver = ("core.captioning_solver",)
    calls = [
        f"{solver[0]} calls {ast.unparse(node.func)}"
        for node in ast.walk(ast.parse(sources[solver[0]]))
        if isinstance(node, ast.Call)
        if ast.unparse(node.func).rpartition(".")[2] in WRITERS
    ]
    return calls + forbidden(solver, WRITING, sources)


def test_the_solver_writes_no_files_and_no_pictures():
    assert writes(SOURCES) == []
    for line in (
        "from core.checkpoint import save_checkpoint",
        "def f():\n    from core.show.plots import plot_losses",
        "import core.runs.saving",
        "from core.support import files",
        "def f(path):\n    with open(path, 'w') as file:\n        pass",
        "def f(path, x):\n    np.savez(path, x)",
        "def f(path):\n    path.write_text('')",
    ):
        assert writes(with_line("core.captioning_solver", line)), line


# -- decoding ----------------------------------------------------------------------------------


def uses_beyond_a_decoder(source: str) -> list[str]:
    """What decoding asks of ``model`` besides what a decoder has, and of ``state`` at all.

    A state is the model's own: decoding hands it on and never looks into it.
    """
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Name):
            attribute = getattr(node, "attr", None)
            if node.value.id == "state" or (
                node.value.id == "model" and attribute not in USES_OF_A_MODEL
            ):
                faults.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            about, *others = map(ast.unparse, node.args)
            known = (f"'{name}'" for name in USES_OF_A_MODEL)
            if about in ("model", "state") and (
                node.func.id in ("isinstance", "type", "vars", "len", "hasattr", "setattr")
                or (node.func.id == "getattr" and (about == "state" or others[0] not in known))
            ):
                faults.append(ast.unparse(node))
        elif isinstance(node, ast.Assign) and ast.unparse(node.value) == "model":
            faults.append(ast.unparse(node))  # another name would hide what is asked of it
    return faults


def test_decoding_knows_begin_step_and_select_and_no_model():
    assert uses_beyond_a_decoder(SOURCES["core.decoding"]) == []
    for line in (
        "model.params['W']",
        "h, c = state[0], 1",
        "state.keys",
        "getattr(model, 'cell_type')",
        "isinstance(model, CaptioningRNN)",
        "getattr(model, name)",
        "m = model",
        "len(state)",
    ):
        assert uses_beyond_a_decoder(line), line
    fine = "state = model.begin(x)\np, state = model.step(state, t)\nmodel.select(state, rows)"
    assert uses_beyond_a_decoder(fine) == []

    def own(sources):
        names = set(imports("core.decoding", sources["core.decoding"]))
        return [name for name in names if among(name, ("core",)) and name in sources]

    assert own(SOURCES) == ["core.layers"]
    assert "core.models" in own(with_line("core.decoding", "from core import models"))


# -- packages ----------------------------------------------------------------------------------


def code(source: str) -> list[str]:
    """What an ``__init__.py`` holds besides a docstring, imports and ``__all__``."""
    nodes = ast.parse(source).body
    if nodes and isinstance(nodes[0], ast.Expr) and isinstance(nodes[0].value, ast.Constant):
        nodes = nodes[1:]
    return [
        ast.unparse(node)
        for node in nodes
        if not isinstance(node, ast.Import | ast.ImportFrom)
        if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    ]


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_hands_names_on_and_does_nothing_itself(package):
    assert code(SOURCES[package]) == []


def test_code_in_a_package_is_found():
    assert code('"""Words."""\nfrom a import b\n\n__all__ = ["b"]\n') == []
    for line in ("MODELS = {}", "def f():\n    pass", "class A:\n    pass", "if True:\n    a = 1"):
        assert code(f'"""Words."""\n{line}\n') == [line]


# -- how much there is to read -----------------------------------------------------------------


def lines_to_read(sources: Mapping[str, str]) -> int:
    return sum(source.count("\n") for name, source in sources.items() if among(name, READ))


def test_what_a_learner_reads_is_within_the_budget():
    for name in READ:
        assert any(among(module, (name,)) for module in SOURCES), f"{name} is gone"
    found = lines_to_read(SOURCES)
    assert found <= BUDGET
    longer = SOURCES | {"core.models.another": "x = 1\n" * (BUDGET - found + 1)}
    assert lines_to_read(longer) > BUDGET
