"""What can go wrong, by whose input it was.  Every message says what is wrong, with the value, and what to do."""

from __future__ import annotations


class SideStepError(Exception):
    """Base of every error this package raises on purpose."""

    def __str__(self) -> str:
        """The message as every log can write it: a name on a disk may be bytes that are no text, and ComfyUI's queue
        stands still for good where writing its log fails."""
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
    """Another process is writing there."""


class TrainingDiverged(SideStepError):
    """Loss or gradient stopped being finite; nothing was written over the last good state."""


class HalfStep(SideStepError):
    """The optimizer failed within an update: the weights are those of no step, and may not be saved."""


class TrainingFailed(SideStepError):
    """Something outside the training ended it, such as the device or the disk; what was finished is kept."""


class MissingDependency(SideStepError, ImportError):
    """An optional package is needed for what was asked; the message holds the pip line."""
