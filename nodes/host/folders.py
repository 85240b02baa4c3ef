"""Paths of models to read, and of outputs, runs and adapters to write, in ComfyUI's folders.

Names come from workflows, which people share: a name is one path component, so nothing lands outside these folders.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path, PurePath

import comfy.model_management
import folder_paths

from ...sidestep_core.adapters import formats, merge
from ...sidestep_core.dataset.manifest import Dataset
from ...sidestep_core.errors import AdapterError, CheckpointError, ConfigError, DatasetError
from ...sidestep_core.io import strict_json, walk
from ...sidestep_core.io.text import bad_character
from ...sidestep_core.model.checkpoint import Checkpoint
from . import readable_folders

log = logging.getLogger(__name__)

AUTOMATIC = "automatic"
_MODEL_KINDS = ("diffusion_models", "checkpoints")
_ESTIMATES = "sidestep_estimates"
"""Our own kind of model folder: so it can be shared through extra_model_paths.yaml."""
_OFFICIAL = "official"
_OFFICIAL_MARK = "silence_latent.pt"
"""A file that every official ACE-Step 1.5 folder has and no other model has."""
MAX_CHARACTERS, MAX_BYTES = 80, 200
"""File systems take 255 bytes, and more is added to a name, such as the step; outside ASCII a character has up to 4."""
_WINDOWS_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[\d\u00b9\u00b2\u00b3])\s*(\..*)?",
                               re.IGNORECASE)
_NO_SIGN = re.compile(r'[\\/:*?"<>|\x00-\x1f\u2028\u2029\ud800-\udfff]')
_LOOSE_END = re.compile(r"\A\.|\.\Z|[\s.]\.\w+\Z")
"""A dot at an end; a space or a dot before an ending, which programs on Windows take away."""

# Folders that extra_model_paths.yaml names are there already, and come first.
folder_paths.add_model_folder_path(_ESTIMATES, str(Path(folder_paths.models_dir) / "sidestep" / "estimates"))


def safe_name(name: str, what: str, characters: int = MAX_CHARACTERS) -> str:
    """Strip a name that can be a file name everywhere; ConfigError gives the reason why one cannot."""
    name = name.strip()
    if not name:
        raise ConfigError(f"{what} is empty. Give it a name.")
    if _NO_SIGN.search(name) or _LOOSE_END.search(name):
        raise ConfigError(f'{what} {name!r} cannot be a file name: leave out \\ / : * ? " < > | and dots at the ends, '
                          "and spaces before them.")
    if wrong := bad_character(name):
        raise ConfigError(f"{what} {name!r} {wrong}. Type it again.")
    if len(name) > characters or len(name.encode()) > MAX_BYTES:
        raise ConfigError(f"{what} has {len(name)} characters, {len(name.encode())} bytes; use at most "
                          f"{characters} of at most {MAX_BYTES}.")
    if _WINDOWS_RESERVED.fullmatch(name):
        raise ConfigError(f"{what} {name!r} is a name that Windows keeps for itself. Choose another.")
    return name


def cleaned_name(name: str, what: str, characters: int = MAX_CHARACTERS) -> str:
    """Replace what cannot be in a file name by `_`; ConfigError where that does not make it one."""
    plain = "".join("_" if _NO_SIGN.match(sign) or bad_character(sign) else sign for sign in name)
    return safe_name(plain.strip().lstrip(".").rstrip(". "), what, characters)


def dataset_folder(name: str) -> Path:
    """Folder of the dataset of this name."""
    return _output("datasets") / safe_name(name, "dataset_name")


def songs_folder(name: str) -> Path:
    """Folder for the dataset.json and the report of the songs of this name."""
    return _output("songs") / safe_name(name, "dataset_name")


def analysis_folder() -> Path:
    """Folder of the reports on analyzed songs, so that none is analyzed twice."""
    return _output("analysis")


def run_folder(name: str, key: str) -> Path:
    """Folder of the training run of this name and identity."""
    return _output("runs") / f"{safe_name(name, 'adapter_name')}-{key}"


def runs_folder() -> Path:
    """Folder of all training runs."""
    return _output("runs")


def comparisons_folder() -> Path:
    """Folder of all comparisons of adapters."""
    return _output("comparisons")


def presets_folder() -> Path:
    """Folder of a person's own presets."""
    return _output("presets")


def estimates_folder() -> Path:
    """Folder of estimates: in ComfyUI's models folder, or the first of extra_model_paths.yaml."""
    return Path(folder_paths.get_folder_paths(_ESTIMATES)[0])


def kept_estimates_folder(dataset: Dataset) -> Path:
    """Folder of the estimates made of a dataset."""
    return estimates_folder() / dataset.folder.name


def estimate_file(name: str) -> Path:
    """File of a saved estimate of this name.  ConfigError when the name cannot be a file name."""
    return estimates_folder() / f"{safe_name(name, 'name')}.json"


def estimate_files() -> dict[str, Path]:
    """Every estimate in ComfyUI's folders for them, by its name below them."""
    names = [name for name in folder_paths.get_filename_list(_ESTIMATES)
             if name.endswith(".json") and not PurePath(name).name.startswith(".")]
    paths = {name: folder_paths.get_full_path(_ESTIMATES, name) for name in names}
    return {PurePath(name).as_posix(): Path(path) for name, path in paths.items() if path is not None}


def _output(kind: str) -> Path:
    return Path(folder_paths.get_output_directory()) / "sidestep" / kind


def adapter_file(name: str) -> Path:
    """File of an adapter of this name, with or without its ending, in ComfyUI's first LoRA folder."""
    stem = safe_name(name.strip().removesuffix(".safetensors"), "adapter_name")
    return Path(folder_paths.get_folder_paths("loras")[0]) / f"{stem}.safetensors"


def adapter_choices() -> list[str]:
    """Every file that ComfyUI's LoRA lists show, and as `folder/` the folders that PEFT or LyCORIS saved."""
    files = folder_paths.get_filename_list("loras")
    saved = {PurePath(name).parent.as_posix() for name in files if PurePath(name).name in formats.FOLDER_FILES}
    return [*files, *(f"{folder}/" for folder in sorted(saved - {"."}))]


def adapter_path(choice: str) -> Path:
    """The file behind a choice; AdapterError when it is gone."""
    names = [f"{choice}{name}" for name in formats.FOLDER_FILES] if choice.endswith("/") else [choice]
    for name in names:
        if (path := folder_paths.get_full_path("loras", name)) is not None:
            return Path(path)
    raise AdapterError(f"{choice} is not in ComfyUI's LoRA folders. Choose one from the list.")


def adapter_name_of(path: Path) -> str:
    """Name of an adapter file, or of its `folder/`, in the LoRA lists; "" for a file that they do not show."""
    for choice in adapter_choices():
        names = [f"{choice}{name}" for name in formats.FOLDER_FILES] if choice.endswith("/") else [choice]
        if any(str(path) == folder_paths.get_full_path("loras", name) for name in names):
            return choice
    return ""


def merged_file(checkpoint: Checkpoint, name: str) -> Path:
    """File of a merged model of this name, in the folder of its kind: all-in-one or split."""
    kind = "checkpoints" if checkpoint.vae in checkpoint.model else "diffusion_models"
    stem = merge.stem(safe_name(name, "model_name"), checkpoint.variant)
    return Path(folder_paths.get_folder_paths(kind)[0]) / f"{stem}.safetensors"


def given_folder(text: str, what: str = "songs") -> Path:
    """A folder of `what` by its full path, or relative to ComfyUI's input folder."""
    text = text.strip().strip("\"'").strip()
    if not text:
        raise DatasetError(f"No folder is given. Enter the path of a folder with {what}.")
    folder = Path(folder_paths.get_input_directory()) / os.path.expanduser(text)  # noqa: PTH111 (leaves ~nobody alone)
    if str(folder) != str(folder).encode("utf-8", "replace").decode():
        raise DatasetError(f"The name of {text} is not valid Unicode. Rename the folder.")
    readable_folders.require_readable(folder, text)
    if folder.is_file():
        raise DatasetError(f"{text} is a file. Enter the folder that it is in.")
    if not folder.is_dir():
        raise readable_folders.unreadable(text)
    return folder


class ScanStopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """End of a scan on request.

    ComfyUI takes any ordinary exception of a fingerprint for a change, and stops the workflow before its next node;
    its own InterruptProcessingException is none, and there ends the thread that runs all workflows.
    """


def content_stamp(path: Path) -> str:
    """Changes when the file, or a file in the folder, is added, removed or written; reads names, sizes and times.

    Raises ScanStopped.
    """
    stamp = hashlib.sha256()
    files = [path] if path.is_file() else [folder / name for folder, names in walk.walk(path, tick=tick)
                                           for name in names]
    for number, file in enumerate(files):
        if number % walk.TICK_EVERY == 0:
            tick()
        facts = file.stat() if file.exists() else file.lstat()
        stamp.update(f"{file}:{facts.st_size}:{facts.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return stamp.hexdigest()


def tick() -> None:
    """Stop a scan where the person asked ComfyUI to; the request stays, for the workflow.  Raises ScanStopped."""
    if comfy.model_management.processing_interrupted():
        raise ScanStopped("The scan was stopped.")


def model_choices() -> list[str]:
    """Model files, those that look like ACE-Step first, and official folders as `official/name`.

    A file has the name that ComfyUI's own loaders give it, so that one missing file is one to the page; one that
    another kind of folder has already shown is `kind/name`.
    """
    files: list[str] = []
    for kind in _MODEL_KINDS:
        names = folder_paths.get_filename_list(kind)
        files += [f"{kind}/{name}" if name in files else name for name in names]
    root = Path(folder_paths.models_dir)
    official = [f"{_OFFICIAL}/{folder.relative_to(root).as_posix()}" for folder in _official_folders()]
    return official + sorted(files, key=lambda choice: ("ace" not in choice.lower(), choice))


def _official_folders() -> list[Path]:
    """Model folders of the official layout below ComfyUI's models folder, at most three levels down."""
    root = Path(folder_paths.models_dir)
    marks = [mark for depth in ("*", "*/*", "*/*/*") for mark in root.glob(f"{depth}/{_OFFICIAL_MARK}")]
    # The latent of silence lies in the model's folder, or beside it.
    folders = {folder for mark in marks for folder in (mark.parent, *mark.parent.iterdir())}
    return sorted(folder for folder in folders if any(folder.glob("model*.safetensors")) and _is_model(folder))


def _is_model(folder: Path) -> bool:
    """Tell ACE-Step's model folder from that of its text encoder."""
    try:
        config = strict_json.as_object(strict_json.read(folder / "config.json"), "config.json")
    except strict_json.BadJson as error:
        log.warning("The model folder %s is not in the list: %s", folder.name, error)
        return False
    return "is_turbo" in config or "AceStep" in str(config.get("architectures"))


def is_split(choice: str) -> bool:
    """True for a choice of `model_choices` that is a diffusion model without text encoder and VAE."""
    return _kind_and_name(choice)[0] == "diffusion_models"


def _kind_and_name(choice: str) -> tuple[str, str]:
    """The kind of folder and the file's name in it, for a name alone and for `kind/name`; the kind "" if in none."""
    listed = next((kind for kind in _MODEL_KINDS if choice in folder_paths.get_filename_list(kind)), None)
    kind, _, name = choice.partition("/")
    return (listed, choice) if listed else (kind, name) if kind in (_OFFICIAL, *_MODEL_KINDS) else ("", choice)


def model_path(choice: str) -> Path:
    """The file or folder behind a choice of `model_choices`."""
    kind, name = _kind_and_name(choice)
    if kind == _OFFICIAL:
        folder = Path(folder_paths.models_dir) / name
        if folder in _official_folders():
            return folder
    elif kind and (path := folder_paths.get_full_path(kind, name)) is not None:
        return Path(path)
    raise CheckpointError(f"The model {choice!r} is not in ComfyUI's model folders. Choose one from the list.")


def part_choices(kind: str) -> list[str]:
    """Files of a kind ("text_encoders", "vae"), after the choice to find the right one by its name."""
    return [AUTOMATIC, *folder_paths.get_filename_list(kind)]


def part_path(kind: str, choice: str, pattern: str) -> Path | None:
    """The file behind a choice; for "automatic" the one whose name matches, or None where none does.

    CheckpointError when several match: which one is meant is the person's to say.
    """
    if choice != AUTOMATIC:
        path = folder_paths.get_full_path(kind, choice)
        if path is None:
            raise CheckpointError(f"{choice!r} is not in ComfyUI's {kind} folder. Choose one from the list.")
        return Path(path)
    fitting = [name for name in folder_paths.get_filename_list(kind) if re.search(pattern, name, re.IGNORECASE)]
    if len(fitting) > 1:
        raise CheckpointError(f"Several files in {kind} could be meant: {', '.join(fitting)}. Choose one on the node.")
    return Path(folder_paths.get_full_path_or_raise(kind, fitting[0])) if fitting else None
