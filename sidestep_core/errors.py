"""Errors, by the input that causes them.  Every message states the problem, with the value, and the remedy."""

from __future__ import annotations


class SideStepError(Exception):
    """Base of every error that this package raises deliberately."""

    def __str__(self) -> str:
        """Return the message in encodable characters: a file name may hold bytes that are not text, and a host may hang
        if writing its log fails."""
        return super().__str__().encode("utf-8", "backslashreplace").decode()


class ConfigError(SideStepError, ValueError):
    """A setting is out of range or contradicts another."""


class CheckpointError(SideStepError):
    """A model file is missing, damaged, or not ACE-Step 1.5."""


class DatasetError(SideStepError):
    """Songs or preprocessed samples cannot be used."""


class AdapterError(SideStepError):
    """An adapter file cannot be written, read or applied."""


class InUse(SideStepError):
    """Another process is writing to the folder."""


class TrainingDiverged(SideStepError):
    """Loss or gradient is not finite; the last good state is kept."""


class HalfStep(SideStepError):
    """The optimizer failed within an update: the weights belong to no step, and must not be saved."""


class TrainingFailed(SideStepError):
    """A failure outside the training ended it, such as of the device or the disk; finished steps are kept."""


class MissingDependency(SideStepError, ImportError):
    """An optional package is missing; the message holds the pip command."""
