"""Imports of packages that people install themselves: any failure names the package that raised it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType

from .errors import MissingDependency

_PROJECTS = {"PIL": "pillow", "cv2": "opencv-python", "google": "protobuf", "lycoris": "lycoris-lora",
             "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Names under which pip knows packages, by their import names, where they differ."""
_TORCH = {"torch", "torchaudio", "torchvision"}
"""Must be of one release and one build; the index of all Python packages has another build than many cards need."""


@contextlib.contextmanager
def imports(package: str, purpose: str, otherwise: str = "") -> Iterator[None]:
    """Turn whatever an import inside raises into MissingDependency with the line to run.

    `purpose` needs `package`; `otherwise` says how to do without.  A broken package raises anything at its import,
    such as OSError for a missing DLL, and may be one that `package` only looks at.  What was not raised by an import
    passes through.
    """
    try:
        yield
    except MissingDependency:
        raise
    except Exception as error:  # noqa: BLE001 (told as a missing package; what is none rises again)
        importer = _imported_by(error.__traceback__)
        culprit = _missing(error) or importer
        if culprit is None and not isinstance(error, ImportError):
            raise
        broken = culprit or package
        told = f"the package {package}" if broken == package else f"the package {package}, and that imports {broken}"
        # A name that is not in a package may be too new for it, or too old for the one that asks.
        both = [importer] if importer not in (None, broken) and not isinstance(error, ModuleNotFoundError) else []
        says = str(error).strip() or type(error).__name__
        raise MissingDependency(f"{purpose} needs {told}, which says: {says.removesuffix('.')}. "
                                f"{_line([*both, broken])}{otherwise}.") from error


def _line(packages: list[str]) -> str:
    """What to run to mend the packages, by their import names."""
    if _TORCH & {*packages}:
        return ("Run: python -m pip install --upgrade torch torchvision torchaudio, with the Python that runs ComfyUI "
                "and from the index that ComfyUI's README names for your card")
    wanted = " ".join(_PROJECTS.get(name, name) for name in packages)
    return f"Run: python -m pip install --upgrade {wanted}, with the Python that runs ComfyUI"


def _missing(error: Exception) -> str | None:
    """Top-level name of the package that is not there, or lacks a name; None for other errors."""
    return error.name.partition(".")[0] if isinstance(error, ImportError) and error.name else None


def _imported_by(trace: TracebackType | None) -> str | None:
    """Top-level name of the package whose module was being imported last; None where none was."""
    found = None
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            found = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] or found
        trace = trace.tb_next
    return found
