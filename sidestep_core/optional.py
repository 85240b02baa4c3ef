"""Imports of packages that people install themselves: any failure names the package that raised it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType

from .errors import MissingDependency


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
        culprit = _missing(error) or _imported_by(error.__traceback__)
        if culprit is None and not isinstance(error, ImportError):
            raise
        broken = culprit or package
        told = f"the package {package}" if broken == package else f"the package {package}, and that imports {broken}"
        raise MissingDependency(f"{purpose} needs {told}, which says: {error}. Run: python -m pip install --upgrade "
                                f"{broken}, with the Python that runs ComfyUI{otherwise}.") from error


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
