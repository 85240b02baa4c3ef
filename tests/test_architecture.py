"""Rules of the architecture: imports, sizes, names and language.

A rule is a function from a file's name and source to its violations.  One test applies it to the repository, and
`test_rule_finds_its_violation` shows that it can fail.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "io": "", "audio": "io", "model": "io", "runs": "io",
    "songs": "audio io model",
    "adapters": "model io",
    "dataset": "songs audio model io",
    "training": "runs dataset adapters model io",
    "estimate": "runs training dataset adapters model io",
    "presets": "training adapters io",
    "compare": "io",
    "settings": "",
}
"""Package of sidestep_core -> the packages it may import."""
INNER_PACKAGES = ("optim",)
"""Packages inside a package of MAY_IMPORT."""
ROOT_FILES = ("errors", "progress", "optional", "config", "device", "rng", "sentence")
"""Modules of sidestep_core itself, open to every package; config and device read files through io."""

OWNERS = {
    "safetensors": {"io/tensors"}, "lycoris": {"adapters/lokr"},
    "transformers": {"model/condition_encoder", "training/optim/optimizers"},
    "av": {"audio/decode", "audio/container"}, "torchaudio": {"audio/loudness", "audio/tempo"},
    "pyloudnorm": {"audio/loudness"}, "librosa": {"audio/tempo", "audio/key"}, "diffusers": {"model/standalone"},
    "bitsandbytes": {"training/optim/optimizers", "model/packed"}, "prodigyopt": {"training/optim/optimizers"},
    "schedulefree": {"training/optim/optimizers"},
    "flash_attn": {"model/attention"},
    "PIL": {"estimate/heatmap"}, "filelock": {"io/locks"},
    "psutil": {"io/temp_files", "device"}, "regex": {"io/patterns"},
}  # fmt: skip
"""Package -> the file of sidestep_core that may import it, inside the functions that need it (transformers has two:
a text encoder and an optimizer)."""

HOST = re.compile(r"(comfy\w*|folder_paths|execution|server|nodes|aiohttp|latent_preview|node_helpers|app)(\.|$)")
NOT_IN_NODES = {"peft", "lycoris", "safetensors", "bitsandbytes", "prodigyopt", "schedulefree", "flash_attn"}
OUR_OWN = {"sidestep_core", "sidestep_cli", "nodes", "demo", "benchmarks", "tests", "run", "bootstrap"}
VAGUE = {"util", "utils", "helper", "helpers", "misc", "common", "tool", "tools"}
IN_WORDS = "nodes/host/wording.py"
INSIDE = r"queue|dicts?|NoneType|websocket|traceback|stack trace|workflow id|prompt id|kwargs|endpoint"
"""Words for our own insides, which mean nothing to a musician."""
LONGEST_FILE = 300
MAX_MODULES = {"nodes": 25}
"""Most modules of a folder, without its __init__.py; 20 for folders that are not listed."""
LONGEST_FUNCTION = 50
LONGEST_README = 150
FOREIGN = re.compile(r"(what|which|whether|how|where|of|by|as|the same|so many)\b", re.IGNORECASE)
MAX_FOREIGN = 0.02
"""Largest share of docstrings that begin with such a word instead of a verb or a noun phrase."""
REPLACED = {
    "Piece": "ModuleDelta", "pieces": "deltas", "Content": "AdapterFile", "Change": "TrainedDelta", "Added": "DeltaFn",
    "Bake": "Patch", "Adapted": "AdapterLayer", "ahead": "prefetch", "probe": "hooks", "custom_tag": "trigger_word",
    "tag": "trigger_word", "visit": "draw", "visits": "draws", "turn": "draw", "turns": "draws", "Heard": "Estimated",
    "Notes": "SongMetadata", "NOT_THE_METHOD": "RESULT_INVARIANT_SETTINGS", "AUTO": "None",
    "said": "value", "told": "notified", "says": "has", "heard": "estimated", "tell": "notify", "put": "set",
    "place": "position", "claim": "match", "begin": "start",
}  # fmt: skip
"""Identifier that the code no longer uses, also with underscores in front -> the field's word that replaced it."""
OF_THE_LIBRARY = {"put", "tell"}
"""Identifiers that are methods of queues and files."""

Rule = Callable[[str, str], Iterable[str]]
"""(path relative to the root, source) -> violations."""


@dataclass(frozen=True)
class Import:
    """Imported module, and the time of its import: with the file, in a function, or by type checkers."""

    module: str
    level: int
    line: int
    when: Literal["module", "function", "types"]

    @property
    def package(self) -> str:
        return "" if self.level else self.module.partition(".")[0]


def imported(node: ast.ImportFrom) -> list[str]:
    """List the modules that a `from` imports: the named one, or each named file of our own package."""
    named = [".".join(filter(None, (node.module, alias.name))) for alias in node.names]
    packages = node.level and (not node.module or node.module in (*MAY_IMPORT, *INNER_PACKAGES))
    return named if packages else [node.module or ""]


def imports(source: str) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, when: Literal["module", "function", "types"]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(alias.name, 0, child.lineno, when) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.extend(Import(module, child.level, child.lineno, when) for module in imported(child))
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                visit(child, "function")
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                visit(child, "types")
            else:
                visit(child, when)

    visit(ast.parse(source), "module")
    return found


def host_imports(name: str, source: str) -> Iterator[str]:
    for found in imports(source):
        if not found.level and HOST.match(found.module):
            yield f"line {found.line} imports {found.module} of the host; pass what is needed as an argument"


def inner(name: str, found: Import) -> str | None:
    """Resolve a relative import to its path below sidestep_core; None outside of it."""
    parts = name.split("/")[1:]
    here = parts[:len(parts) - found.level]
    if not found.level or found.level > len(parts):
        return None
    return "/".join([*here, *(found.module.split(".") if found.module else [])])


def absolute_imports(name: str, source: str) -> Iterator[str]:
    for found in imports(source):
        if found.package in OUR_OWN or (found.level and inner(name, found) is None):
            dots = "." * found.level
            yield f"line {found.line} imports {dots}{found.module}; inside sidestep_core only `from .x import y` works"


def forbidden_packages(name: str, source: str) -> Iterator[str]:
    package = name.split("/")[1]
    if "." in package:
        yield from (f"is {package}, which is no known file of sidestep_core; give it a package" for _ in [0]
                    if package.removesuffix(".py") not in (*ROOT_FILES, "__init__"))
        return
    if package not in MAY_IMPORT:
        yield "is in a package that MAY_IMPORT in tests/test_architecture.py does not list"
        return
    for found in imports(source):
        target = (inner(name, found) or package).partition("/")[0]
        if target not in (package, *ROOT_FILES, *MAY_IMPORT[package].split()):
            yield f"line {found.line} imports {target}, which {package} may not; see MAY_IMPORT"


def import_graph() -> dict[str, set[str]]:
    """Map each file of sidestep_core to the files of it that it ever imports."""
    files = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in python_files("sidestep_core")}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        targets = {f"sidestep_core/{inner(f'{name}.py', found)}"
                   for found in imports(path.read_text(encoding="utf-8")) if found.level}
        graph[name] = targets & set(files)
    return graph


def trainer_packages(name: str, source: str) -> Iterator[str]:
    for found in imports(source):
        if found.package in NOT_IN_NODES:
            yield f"line {found.line} imports {found.package}; nodes leave that to sidestep_core"


def unowned_packages(name: str, source: str) -> Iterator[str]:
    for found in imports(source):
        package = found.package
        if not package or package in sys.stdlib_module_names or package == "torch":
            continue
        owners = OWNERS.get(package)
        if owners is None:
            yield f"line {found.line} imports {package}, which has no owner; add one to OWNERS, or do without"
        elif name.removeprefix("sidestep_core/").removesuffix(".py") not in owners:
            yield f"line {found.line} imports {package}; only {' and '.join(sorted(owners))} may, so ask it"
        elif found.when == "module":
            yield f"line {found.line} imports {package} with the module; import it inside the function that needs it"


def imports_by_name(name: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("__import__", "import_module"):
            yield f"line {node.lineno} imports by name, which none of these rules can see"


def unbounded_json(name: str, source: str) -> Iterator[str]:
    if name == "sidestep_core/io/strict_json.py":
        return
    for node in ast.walk(ast.parse(source)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called in ("json.load", "json.loads", "json.JSONDecoder", "torch.load") and not (
                called == "torch.load" and name == "sidestep_core/io/torch_pickle.py"):
            yield f"line {node.lineno} calls {called}, without bounds; ask strict_json, or torch_pickle"
        elif isinstance(node, ast.ImportFrom) and node.module == "json":
            yield f"line {node.lineno} imports from json; ask strict_json"
        elif isinstance(node, (ast.Import, ast.ImportFrom)) and any(
                alias.name.partition(".")[0] in ("pickle", "marshal", "shelve", "yaml") for alias in node.names):
            yield f"line {node.lineno} imports what can run code from a file"


def long_file(name: str, source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > LONGEST_FILE:
        yield f"has {lines} lines, more than {LONGEST_FILE}; split it by what it is about"


def long_functions(name: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"line {node.lineno}: {node.name} has {lines} lines, more than {LONGEST_FUNCTION}; name its parts"


def long_readme(name: str, source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > LONGEST_README:
        yield f"has {lines} lines, more than {LONGEST_README}; docs/guide has room"


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for before, statement in zip([None, *body[:-1]], body, strict=True) if body and isinstance(body, list) else ():
            documented = isinstance(before, (ast.Assign, ast.AnnAssign)) or (before is None and isinstance(
                node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)))
            text = statement.value if isinstance(statement, ast.Expr) else None
            if documented and isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield statement.lineno, text.value.strip()


def foreign_openings(name: str, source: str) -> Iterator[str]:
    for line, text in docstrings(source):
        if FOREIGN.match(text):
            yield f"line {line} begins with {text.split()[0]!r}; begin with a verb or a noun phrase"


def identifiers(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of every variable, attribute, argument, function, class and import."""
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "attr", "arg", "name", "asname"):
            found = getattr(node, field, None)
            if isinstance(found, str) and not (field == "attr" and found in OF_THE_LIBRARY):
                yield getattr(node, "lineno", 0), found


def replaced_names(name: str, source: str) -> Iterator[str]:
    for line, found in identifiers(source):
        if (word := REPLACED.get(found.lstrip("_"))) is not None:
            yield f"line {line} has {found}; the word for it is {word}"


def vague_name(name: str, source: str) -> Iterator[str]:
    words = {word for part in Path(name).with_suffix("").parts for word in re.split(r"[^a-z]+", part.lower())}
    for word in sorted(words & VAGUE):
        yield f"is called {word!r}; name it after its contents"


def broad_excepts(name: str, source: str) -> Iterator[str]:
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            passed_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            broad = not passed_on and (node.type is None or _names_everything(node.type))
        else:
            broad = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress") and any(
                map(_names_everything, node.args))
        if broad and not re.search(r"# noqa: BLE001 \(\w.{9,}\)", lines[node.lineno - 1]):
            yield f"line {node.lineno} catches everything; name the errors, or give the reason: # noqa: BLE001 (reason)"


def _names_everything(expression: ast.expr) -> bool:
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    return bool(names & {"Exception", "BaseException"})


def prints(name: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write"):
            yield f"line {node.lineno} prints; report progress, or log"


def errors_without_words(name: str, source: str) -> Iterator[str]:
    """Require wording.sentence, which leaves out the server's paths, for errors in a node's messages."""
    for handler in ast.walk(ast.parse(source)) if name != IN_WORDS else ():
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        logged = {id(part) for call in ast.walk(handler) if ast.unparse(call).startswith("log.")
                  for part in ast.walk(call)}
        for node in ast.walk(handler):
            spoken = node.value if isinstance(node, ast.FormattedValue) else (
                node.args[0] if isinstance(node, ast.Call) and ast.unparse(node.func) in ("str", "repr") and node.args
                else None)
            if isinstance(spoken, ast.Name) and spoken.id == handler.name and id(node) not in logged:
                yield f"line {spoken.lineno} shows the error as it is; use wording.sentence({spoken.id})"


def spoken_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every text in the code that is not a docstring."""
    tree = ast.parse(source)
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def jargon(name: str, source: str) -> Iterator[str]:
    """Find names of classes and internals in texts for people, who know nodes by their display names."""
    texts = spoken_texts(source) if name.endswith(".py") else (
        (number, text) for number, line in enumerate(source.splitlines(), 1)
        for text in re.findall(r"""["'`][^"'`]* [^"'`]*["'`]""", line.partition("// ")[0]))
    for line, text in texts:
        classes = [word for word in re.findall(r"\b[A-Z]\w+", text) if word in class_names()]
        words = re.findall(rf"\b(?:{INSIDE})\b", text, re.IGNORECASE) if text.count(" ") > 1 else []
        for word in (*classes, *words):
            yield f"line {line} shows {word!r} to people; use the name on the page"


@lru_cache
def class_names() -> frozenset[str]:
    """Collect the class names of all nodes and configs."""
    found = (node for path in python_files("nodes", "sidestep_core") for node in ast.parse(
        path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef))
    return frozenset(node.name for node in found if len(re.findall("[A-Z]", node.name)) > 1
                     and any(ast.unparse(base) in ("io.ComfyNode", "Config") for base in node.bases))


def node_names(name: str, source: str) -> Iterator[str]:
    """The core speaks of stages; nodes/host/wording.py adds the names of the nodes."""
    for line, text in spoken_texts(source):
        for found in display_names():
            if re.search(rf"\b{re.escape(found)}\b", text):
                yield f"line {line} names the node {found!r}; speak of the stage, and add it to STAGES of {IN_WORDS}"


@lru_cache
def display_names() -> frozenset[str]:
    """Names of all nodes on the screen."""
    source = "".join(path.read_text(encoding="utf-8") for path in python_files("nodes"))
    names = frozenset(re.findall(r'^ +display_name="([A-Z][^"]+)",$', source, re.MULTILINE))
    assert "Audio Folder to Dataset" in names
    return names


def imports_at_start(name: str, source: str) -> Iterator[str]:
    for found in imports(source):
        if found.when != "function":
            yield f"line {found.line} imports {found.module or '.'} when ComfyUI starts; import it in comfy_entrypoint"


def python_files(*places: str) -> list[Path]:
    """List the named files, and every file in the named folders."""
    paths = [ROOT / place for place in places]
    found = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))]
    assert found, f"no Python file in {places}: this test looks in the wrong place"
    return sorted(found)


def source_files() -> list[Path]:
    """List all source files outside hidden folders."""
    tops = [path for path in ROOT.iterdir() if not path.name.startswith((".", "__pycache__"))]
    every = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*"))]
    return sorted(path for path in every if path.suffix in (".py", ".js") and "node_modules" not in path.parts)


def violations(rule: Rule, paths: Iterable[Path]) -> list[str]:
    names = [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]
    return [f"{name} {violation}" for name, source in names for violation in rule(name, source)]


def test_core_imports_no_comfyui() -> None:
    assert violations(host_imports, python_files("sidestep_core")) == []


def test_core_imports_are_relative() -> None:
    assert violations(absolute_imports, python_files("sidestep_core")) == []


def test_packages_keep_their_order() -> None:
    assert violations(forbidden_packages, python_files("sidestep_core")) == []


def test_every_package_is_listed() -> None:
    assert sorted(MAY_IMPORT) == sorted(path.parent.name for path in (ROOT / "sidestep_core").glob("*/__init__.py"))


def test_imports_have_no_cycle() -> None:
    graph = import_graph()
    assert graph["sidestep_core/training/loop"] >= {"sidestep_core/training/step", "sidestep_core/progress"}
    list(TopologicalSorter(graph).static_order())


def crowded(folders: Mapping[str, int]) -> list[str]:
    """List the folders with too many modules."""
    return [folder for folder, count in folders.items() if count > MAX_MODULES.get(folder, 20)]


def test_folders_are_small() -> None:
    paths = python_files("sidestep_core", "nodes", "sidestep_cli", "demo", "benchmarks")
    modules = Counter(path.parent.relative_to(ROOT).as_posix() for path in paths if path.name != "__init__.py")
    assert modules["sidestep_core/training"] > 10
    assert crowded(modules) == []


def test_crowded_folder_is_found() -> None:
    assert crowded({"demo": 20, "nodes": MAX_MODULES["nodes"], "nodes/host": 21}) == ["nodes/host"]


def test_doors_import_no_trainer_packages() -> None:
    assert violations(trainer_packages, python_files("nodes", "sidestep_cli")) == []


def test_command_line_imports_no_comfyui() -> None:
    assert violations(host_imports, python_files("sidestep_cli")) == []


def test_command_line_imports_slow_packages_late() -> None:
    found = {f"{path.name} {found.module}" for path in python_files("sidestep_cli")
             for found in imports(path.read_text(encoding="utf-8"))
             if found.when == "module" and found.package in {"torch", "rich", "questionary", *OWNERS}}
    assert found == set()


def test_outside_packages_have_owners() -> None:
    assert violations(unowned_packages, python_files("sidestep_core")) == []


def test_nothing_is_imported_by_name() -> None:
    assert violations(imports_by_name, python_files("sidestep_core", "nodes", "sidestep_cli")) == []


def test_json_is_read_within_bounds() -> None:
    paths = python_files("sidestep_core", "nodes", "sidestep_cli", "__init__.py", "first_copy.py")
    assert violations(unbounded_json, paths) == []


def test_files_are_short() -> None:
    paths = python_files("sidestep_core", "nodes", "sidestep_cli", "demo", "benchmarks", "run.py", "bootstrap.py")
    assert violations(long_file, paths) == []


def test_functions_are_short() -> None:
    assert violations(long_functions, python_files("sidestep_core", "nodes", "sidestep_cli")) == []


def test_readme_is_short() -> None:
    assert violations(long_readme, [ROOT / "README.md"]) == []


def test_docstrings_begin_in_plain_english() -> None:
    paths = python_files("sidestep_core", "nodes", "sidestep_cli", "demo", "benchmarks")
    total = sum(1 for path in paths for _ in docstrings(path.read_text(encoding="utf-8")))
    found = violations(foreign_openings, paths)
    assert total > 1000
    assert len(found) <= MAX_FOREIGN * total, "\n".join(found)


def test_old_names_are_gone() -> None:
    assert violations(replaced_names, python_files("sidestep_core", "nodes", "sidestep_cli")) == []


def test_file_names_are_specific() -> None:
    assert violations(vague_name, source_files()) == []


def test_broad_excepts_have_reasons() -> None:
    assert violations(broad_excepts, python_files("sidestep_core", "nodes", "sidestep_cli")) == []


def test_nothing_prints() -> None:
    paths = python_files("sidestep_core", "nodes", "sidestep_cli")
    assert violations(prints, [path for path in paths if path != ROOT / "sidestep_cli" / "console.py"]) == []


def test_nodes_phrase_errors() -> None:
    assert violations(errors_without_words, python_files("nodes")) == []


def test_messages_name_no_internals() -> None:
    pages = [path for path in source_files() if ROOT / "web" in path.parents]
    assert pages
    assert violations(jargon, [*python_files("sidestep_core", "nodes", "first_copy.py"), *pages]) == []


def test_core_names_no_node() -> None:
    assert violations(node_names, python_files("sidestep_core")) == []


def test_start_imports_nothing() -> None:
    assert violations(imports_at_start, [ROOT / "__init__.py"]) == []


def loaded_by(package: str, folder: Path) -> set[str]:
    """List the modules that a fresh Python has loaded after importing a package found in `folder`."""
    code = f"import sys, {package}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_core_imports_without_torch() -> None:
    assert loaded_by("sidestep_core", ROOT) & {"torch", "numpy", *OWNERS} == set()


def test_import_of_torch_is_found(tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()
    (tmp_path / "heavy.py").write_text("import torch", encoding="utf-8")
    assert "torch" in loaded_by("heavy", tmp_path)


LONG_BODY = "\n    pass" * LONGEST_FUNCTION


@pytest.mark.parametrize(("rule", "name", "source"), [
    (host_imports, "sidestep_core/device.py", "import comfy.model_management"),
    (host_imports, "sidestep_core/device.py", "from comfy_api.latest import io"),
    (host_imports, "sidestep_core/device.py", "def f():\n    import folder_paths"),
    (host_imports, "sidestep_core/device.py", "from server import PromptServer"),
    (host_imports, "sidestep_core/device.py", "import execution"),
    (host_imports, "sidestep_core/device.py", "import nodes"),
    (host_imports, "sidestep_core/device.py", "from aiohttp import web"),
    (absolute_imports, "sidestep_core/device.py", "import sidestep_core.errors"),
    (absolute_imports, "sidestep_core/device.py", "from sidestep_core import errors"),
    (absolute_imports, "sidestep_core/device.py", "from .. import nodes"),
    (absolute_imports, "sidestep_core/device.py", "from ..demo import songs"),
    (absolute_imports, "sidestep_core/device.py", "def f():\n    from demo.synthetic_model import DEMO"),
    (absolute_imports, "sidestep_core/io/atomic.py", "from ... import nodes"),
    (forbidden_packages, "sidestep_core/unheard_of.py", ""),
    (forbidden_packages, "sidestep_core/unheard_of/file.py", ""),
    (forbidden_packages, "sidestep_core/io/atomic.py", "from ..training.train import train"),
    (forbidden_packages, "sidestep_core/io/atomic.py", "from ..training import train"),
    (forbidden_packages, "sidestep_core/io/atomic.py", "from .. import training"),
    (forbidden_packages, "sidestep_core/io/atomic.py", "def f():\n    from ..adapters.file import Adapter"),
    (forbidden_packages, "sidestep_core/io/atomic.py",
     "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..adapters.file import Adapter"),
    (trainer_packages, "nodes/host/worker.py", "import peft"),
    (trainer_packages, "nodes/a.py", "from safetensors.torch import load_file"),
    (trainer_packages, "nodes/a.py", "def f():\n    from lycoris import create_lycoris"),
    (trainer_packages, "nodes/a.py", "import bitsandbytes as bnb"),
    (trainer_packages, "nodes/a.py", "import prodigyopt"),
    (trainer_packages, "nodes/a.py", "import flash_attn"),
    (unowned_packages, "sidestep_core/model/weights.py", "def f():\n    from safetensors import safe_open"),
    (unowned_packages, "sidestep_core/training/step.py", "def f():\n    import lycoris"),
    (unowned_packages, "sidestep_core/training/step.py", "if TYPE_CHECKING:\n    import lycoris"),
    (unowned_packages, "sidestep_core/adapters/lokr.py", "import lycoris"),
    (unowned_packages, "sidestep_core/adapters/lokr.py",
     "try:\n    import lycoris\nexcept ImportError:\n    lycoris = None"),
    (unowned_packages, "sidestep_core/adapters/lokr.py", "class Holder:\n    import lycoris"),
    (unowned_packages, "sidestep_core/songs/song.py", "def f():\n    import pandas"),
    (imports_by_name, "sidestep_core/songs/song.py", "import importlib\nimportlib.import_module('peft')"),
    (imports_by_name, "sidestep_core/songs/song.py", "__import__('peft')"),
    (unbounded_json, "sidestep_core/presets/preset.py", "import json\njson.loads(text)"),
    (unbounded_json, "nodes/presets.py", "import json\ndef f(file):\n    return json.load(file)"),
    (unbounded_json, "nodes/presets.py", "from json import loads"),
    (unbounded_json, "sidestep_core/io/atomic.py", "import pickle"),
    (unbounded_json, "sidestep_core/adapters/formats.py", "torch.load(path, weights_only=True)"),
    (long_file, "demo/__main__.py", "pass\n" * (LONGEST_FILE + 1)),
    (long_functions, "nodes/a.py", f"def f():{LONG_BODY}"),
    (long_functions, "nodes/a.py", f"async def f():{LONG_BODY}"),
    (long_readme, "README.md", "line\n" * (LONGEST_README + 1)),
    (foreign_openings, "nodes/a.py", "def f():\n    \"\"\"Of each song, a random crop.\"\"\""),
    (foreign_openings, "nodes/a.py", "LIMIT = 1\n\"\"\"How many there are.\"\"\""),
    (foreign_openings, "nodes/a.py", "class A:\n    size: int\n    \"\"\"The same in bytes.\"\"\""),
    (replaced_names, "nodes/a.py", "class Piece:\n    pass"),
    (replaced_names, "nodes/a.py", "def f(song):\n    return song.custom_tag"),
    (replaced_names, "nodes/a.py", "from .b import Change"),
    (replaced_names, "nodes/a.py", "def _put(value):\n    pass"),
    (vague_name, "sidestep_core/utils.py", ""),
    (vague_name, "nodes/audio_helpers.py", ""),
    (vague_name, "web/common.js", ""),
    (vague_name, "demo/misc/songs.py", ""),
    (broad_excepts, "nodes/a.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (broad_excepts, "nodes/a.py", "try:\n    f()\nexcept:\n    pass"),
    (broad_excepts, "nodes/a.py", "try:\n    f()\nexcept (OSError, BaseException) as error:\n    log(error)"),
    (broad_excepts, "nodes/a.py", "try:\n    f()\nexcept Exception:  # noqa: BLE001\n    pass"),
    (broad_excepts, "nodes/a.py", "try:\n    f()\nexcept Exception as error:\n    raise Better from error"),
    (broad_excepts, "nodes/a.py", "with contextlib.suppress(Exception):\n    f()"),
    (prints, "nodes/a.py", "print('loaded')"),
    (errors_without_words, "nodes/a.py", "try:\n    f()\nexcept OSError as error:\n    say(str(error))"),
    (errors_without_words, "nodes/a.py", "try:\n    f()\nexcept OSError as error:\n    say(f'No: {error}')"),
    (errors_without_words, "nodes/a.py", "try:\n    f()\nexcept OSError as error:\n    say(f'No: {error!r}')"),
    (jargon, "nodes/a.py", "raise ConfigError('Run PreprocessAudioFolder again.')"),
    (jargon, "sidestep_core/config.py", "raise ConfigError(f'{name} is no setting of TrainConfig.')"),
    (jargon, "sidestep_core/config.py", "raise ConfigError('Queue the same workflow again.')"),
    (jargon, "web/panel.js", 'const HINT = "Run EstimateGradients again.";'),
    (node_names, "sidestep_core/dataset/manifest.py", "raise DatasetError('Run Audio Folder to Dataset again.')"),
    (imports_at_start, "__init__.py", "import logging"),
    (imports_at_start, "__init__.py", "from .nodes import SideStepExtension"),
    (imports_at_start, "__init__.py", "from . import nodes"),
    (imports_at_start, "__init__.py", "try:\n    import torch\nexcept ImportError:\n    raise"),
])  # fmt: skip
def test_rule_finds_its_violation(rule: Rule, name: str, source: str) -> None:
    assert len(list(rule(name, source))) == 1


@pytest.mark.parametrize(("rule", "name", "source"), [
    (host_imports, "sidestep_core/training/train.py", "from .nodes import something"),
    (absolute_imports, "sidestep_core/training/train.py", "from ..errors import ConfigError"),
    (forbidden_packages, "sidestep_core/training/train.py",
     "from .step import Training\nfrom . import loss\nfrom ..adapters import lora\nfrom ..errors import ConfigError"),
    (unowned_packages, "sidestep_core/adapters/lokr.py", "def f():\n    import lycoris"),
    (unowned_packages, "sidestep_core/adapters/lokr.py", "if TYPE_CHECKING:\n    from lycoris.modules import lokr"),
    (unowned_packages, "sidestep_core/songs/song.py", "import csv\nimport torch.nn\nfrom .errors import DatasetError"),
    (unbounded_json, "sidestep_core/io/strict_json.py", "json.loads(text)"),
    (unbounded_json, "sidestep_core/io/torch_pickle.py", "torch.load(path, weights_only=True)"),
    (unbounded_json, "nodes/presets.py", "import json\njson.dumps(value)"),
    (long_file, "demo/__main__.py", "pass\n" * LONGEST_FILE),
    (long_functions, "nodes/a.py", f"def f():{LONG_BODY.removesuffix('pass').rstrip()}"),
    (long_readme, "README.md", "line\n" * LONGEST_README),
    (foreign_openings, "nodes/a.py", "def f():\n    \"\"\"Load the decoder.\"\"\"\n    'Of a text'"),
    (replaced_names, "nodes/a.py", "'Change the piece'  # and its Content\nPieces = 1"),
    (replaced_names, "nodes/a.py", "reports.put(file.tell())\nplacement = words"),
    (vague_name, "nodes/routes/history.py", ""),
    (broad_excepts, "nodes/a.py", "try:\n    f()\nexcept BaseException:\n    save()\n    raise"),
    (broad_excepts, "nodes/a.py", "try:\n    f()\nexcept Exception:  # noqa: BLE001 (thread raises it)\n    pass"),
    (broad_excepts, "nodes/a.py", "try:\n    f()\nexcept OSError:\n    pass"),
    (errors_without_words, "nodes/a.py", "try:\n    f()\nexcept OSError as error:\n    log.info('%s', str(error))"),
    (errors_without_words, "nodes/a.py", "try:\n    f()\nexcept OSError as error:\n    say(sentence(error))"),
    (errors_without_words, IN_WORDS, "try:\n    f()\nexcept OSError as error:\n    say(str(error))"),
    (jargon, "nodes/a.py", "'Of PreprocessAudioFolder.'\nname = 'SideStepTrainAdapter'\nkey = 'queue'"),
    (node_names, "sidestep_core/dataset/manifest.py",
     "'Of Audio Folder to Dataset.'\nraise DatasetError('Preprocess the songs again.')"),
    (imports_at_start, "__init__.py", "def comfy_entrypoint():\n    from .nodes import SideStepExtension"),
])  # fmt: skip
def test_rule_passes_allowed_code(rule: Rule, name: str, source: str) -> None:
    assert list(rule(name, source)) == []
