"""Imports of optional packages: any failure names the package that raised it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from types import TracebackType

from .errors import MissingDependency

_PROJECTS = {"PIL": "pillow", "cv2": "opencv-python", "google": "protobuf", "lycoris": "lycoris-lora",
             "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Import name -> pip name, where they differ."""
_TORCH = {"torch", "torchaudio", "torchvision"}
"""Packages that must be of one release and build; the default index has another build than many GPUs need."""


@contextlib.contextmanager
def imports(package: str, purpose: str, otherwise: str = "") -> Iterator[None]:
    """Turn any error of an import in the block into MissingDependency with the pip command.

    `purpose` needs `package`; `otherwise` names an alternative.  A broken package may raise anything at its import,
    such as OSError for a missing DLL, and may be a dependency of `package`.  Errors outside imports pass through.
    """
    try:
        yield
    except MissingDependency:
        raise
    except Exception as error:  # noqa: BLE001 (reported as a missing package; other errors are raised again)
        importer = _imported_by(error.__traceback__)
        culprit = _missing(error) or importer
        if culprit is None and not isinstance(error, ImportError):
            raise
        broken = culprit or package
        named = f"the package {package}" if broken == package else f"the package {package}, and that imports {broken}"
        # A missing name: either its package is too old, or the one that imports it.
        both = [importer] if importer not in (None, broken) and not isinstance(error, ModuleNotFoundError) else []
        reason = str(error).strip() or type(error).__name__
        raise MissingDependency(f"{purpose} needs {named}, which raised: {reason.removesuffix('.')}. "
                                f"{_line([*both, broken])}{otherwise}.") from error


def _line(packages: list[str]) -> str:
    """Return the command that repairs the packages, given by import names."""
    if _TORCH & {*packages}:
        return ("Run: python -m pip install --upgrade torch torchvision torchaudio, with the Python that runs ComfyUI "
                "and from the index that ComfyUI's README names for your card")
    wanted = " ".join(_PROJECTS.get(name, name) for name in packages)
    return f"Run: python -m pip install --upgrade {wanted}, with the Python that runs ComfyUI"


def _missing(error: Exception) -> str | None:
    """Return the top-level name of the missing package, or of one that lacks a name; None for other errors."""
    return error.name.partition(".")[0] if isinstance(error, ImportError) and error.name else None


def _imported_by(trace: TracebackType | None) -> str | None:
    """Return the top-level name of the package whose module was being imported last; None if none was."""
    found = None
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            found = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] or found
        trace = trace.tb_next
    return found


def is_installed(package: str) -> bool:
    """Return True if a package can be found; it is not imported."""
    return importlib.util.find_spec(package) is not None
