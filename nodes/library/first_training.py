"""A first training: models to choose from, the proposed settings, and the values of the graph that trains.

The page builds the graph (web/songs/first_graph.js); here is decided what its widgets hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import comfy.model_management
import folder_paths

from ...sidestep_core import optional
from ...sidestep_core.errors import CheckpointError, DatasetError
from ...sidestep_core.io.record import Record
from ...sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from ...sidestep_core.presets import guide
from ...sidestep_core.sentence import Sentence
from ...sidestep_core.songs.scan import seconds_of
from ...sidestep_core.songs.song import Song, SongFolder
from ...sidestep_core.training.config import TrainConfig
from ...sidestep_core.training.resolve import sampling
from ..host import folders, previews
from ..host.loaded_model import TEXT_ENCODER_NAME, VAE_NAME
from ..widgets import training as training_widgets

Widgets = Mapping[str, object]
"""Values by widget, as the page sets them."""

LANGUAGE_MODEL_NAME = r"qwen.*(1\.7b|4b)"
SECONDS, SECONDS_WITHOUT_CARD = 60.0, 10.0
"""Length of the first generation."""
NAME_CHARACTERS = 60
"""Most characters of a name made from a folder's; more is added to the names of files."""
_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class Wish(Record):
    """What a person chose for a first training."""

    folder: str
    """Folder of ComfyUI's input folder."""
    model: str
    name: str
    preset: str = ""
    """Empty: the one that fits best."""


@dataclass(frozen=True, kw_only=True)
class FirstTraining:
    """Everything that the page shows and puts on the canvas."""

    name: str
    trigger_word: str
    songs: int
    minutes: float
    without_caption: int
    preset: str
    proposed: str
    """Preset that fits best."""
    reason: Sentence
    steps: int
    passes: int
    warnings: tuple[Sentence, ...]
    widgets: Mapping[str, Widgets]
    """By the class of their node, or under "save" for whichever node this ComfyUI saves audio with."""


def models() -> list[str]:
    """Choices of models that look like ACE-Step 1.5, best first; all models if none does."""
    choices = folders.model_choices()
    fitting = [name for name in choices if re.search(r"ace.?step|ace_?1\.5", name, re.IGNORECASE)] or choices
    # Turbo generates fastest; ComfyUI's loaders do not read official folders.
    return sorted(fitting, key=lambda name: (name.startswith("official/"), "turbo" not in name.lower()))


def prepare(found: SongFolder, wish: Wish) -> FirstTraining:
    """Propose a training of the songs found in the wished folder.

    Raises CheckpointError for a model that cannot be read, ConfigError for a name that cannot be one.
    """
    checkpoint = _checkpoint(wish.model)
    seconds = seconds_of(found)
    if not seconds:
        raise DatasetError("None of these songs can be read as audio. Play one of them elsewhere, or save it again.")
    facts = guide.Facts(songs=len(found.songs), seconds=seconds, size=checkpoint.size, memory=card_memory(),
                        has_8bit=optional.is_installed("bitsandbytes"))
    proposal = guide.propose(facts, wish.preset)
    name = folders.cleaned_name(wish.name, "The name", NAME_CHARACTERS)
    word = found.shared_trigger_word or trigger_word(name)
    return FirstTraining(
        name=name, trigger_word=word, songs=len(found.songs), minutes=seconds / 60,
        without_caption=sum(not (song.caption or song.genre) for song in found.songs), preset=proposal.preset,
        proposed=guide.best_preset(facts), reason=proposal.reason, steps=proposal.train.max_steps,
        passes=proposal.passes, warnings=proposal.warnings,
        widgets={
            **_training(proposal, wish.folder, name, word),
            **_generation(checkpoint, wish.model, found.songs[0], name,
                          SECONDS if facts.memory else SECONDS_WITHOUT_CARD)})


def card_memory() -> int | None:
    """Bytes of the graphics card that ComfyUI uses; None for a processor or an unknown kind of device."""
    device = comfy.model_management.get_torch_device()
    if device.type not in ("cuda", "xpu"):
        return None
    return int(comfy.model_management.get_total_memory(device))


def trigger_word(name: str) -> str:
    """Word made from a name: `My songs!` becomes `my_songs`."""
    return _WORD.sub("_", name.lower()).strip("_") or "mystyle"


def _checkpoint(choice: str) -> Checkpoint:
    split = folders.is_split(choice)
    return open_checkpoint(
        folders.model_path(choice),
        text_encoder=folders.part_path("text_encoders", folders.AUTOMATIC, TEXT_ENCODER_NAME) if split else None,
        vae=folders.part_path("vae", folders.AUTOMATIC, VAE_NAME) if split else None)


def _training(proposal: guide.Proposal, folder: str, name: str, word: str) -> dict[str, Widgets]:
    adapter, train = proposal.adapter, training_widgets.shown(proposal.train)
    own = {setting: train[setting] for setting in ("max_steps", "learning_rate", "chunk_duration")}
    usual = training_widgets.shown(TrainConfig())
    others = {setting: value for setting, value in train.items()
              if setting not in training_widgets.OWN and value != usual[setting]}
    return {
        "SideStepPreprocessAudioFolder": {"folder": folder, "dataset_name": name, "trigger_word": word},
        "SideStepConfigureLoRA": {"rank": adapter.rank, "alpha": adapter.alpha, "dropout": adapter.dropout},
        "SideStepTrainAdapter": {"adapter_name": name, **own},
        **({"SideStepTrainingSettings": others} if others else {}),
    }


def _generation(checkpoint: Checkpoint, choice: str, song: Song, name: str, seconds: float) -> dict[str, Widgets]:
    """Values of the loaders and of everything that generates; without ComfyUI's loaders for an official folder."""
    shift, steps = sampling(TrainConfig(), checkpoint)
    file = choice.partition("/")[2] if choice.startswith(("diffusion_models/", "checkpoints/")) else choice
    if choice.startswith("official/"):
        return {"SideStepLoadACEStepCheckpoint": {"model": choice}}
    loaders: dict[str, Widgets] = {"CheckpointLoaderSimple": {"ckpt_name": file}}
    if folders.is_split(choice):
        loaders = {
            "UNETLoader": {"unet_name": file, "weight_dtype": "default"},
            "DualCLIPLoader": {"clip_name1": _part("text_encoders", TEXT_ENCODER_NAME, "qwen_0.6b_ace15.safetensors"),
                               "clip_name2": _part("text_encoders", LANGUAGE_MODEL_NAME,
                                                   "qwen_1.7b_ace15.safetensors"), "type": "ace"},
            "VAELoader": {"vae_name": _part("vae", VAE_NAME, "ace_1.5_vae.safetensors")}}
    return {
        **loaders,
        "ModelSamplingAuraFlow": {"shift": shift},
        "StringConcatenate": {"string_b": song.caption or song.genre, "delimiter": ", "},
        "TextEncodeAceStepAudio1.5": {
            "lyrics": "[Instrumental]" if song.instrumental or not song.lyrics else song.lyrics, "duration": seconds,
            "generate_audio_codes": False, **({"bpm": song.bpm} if song.bpm else {}),
            **({"keyscale": song.key} if song.key else {})},
        "EmptyAceStep1.5LatentAudio": {"seconds": seconds},
        "KSampler": {"steps": steps, "cfg": previews.GUIDANCE[checkpoint.variant], "sampler_name": "euler",
                     "scheduler": "simple", "denoise": 1.0},
        "save": {"filename_prefix": f"audio/{name}"},
    }


def _part(kind: str, pattern: str, usual: str) -> str:
    """File of a kind by its usual name.  CheckpointError where there is none."""
    fitting = [name for name in folder_paths.get_filename_list(kind) if re.search(pattern, name, re.IGNORECASE)]
    if not fitting:
        raise CheckpointError(f"There is no {usual} in models/{kind}, which generating needs. Put it there, and press "
                              "Look again.")
    return fitting[0]
