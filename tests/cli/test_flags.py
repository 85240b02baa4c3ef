"""Every flag of Side-Step's argument reference is taken with its meaning, and every setting has a flag and a widget."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sidestep_cli import flags, names, settings
from sidestep_cli.main import build_parser
from sidestep_core.adapters.registry import configs
from sidestep_core.config import Config
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.selection import SelectionConfig
from sidestep_core.presets.text import WORDS, parse_setting
from sidestep_core.settings import adapters as adapter_tables
from sidestep_core.settings.estimate import ESTIMATE, SELECTION
from sidestep_core.settings.setting import Settings
from sidestep_core.settings.songs import PREPROCESS
from sidestep_core.settings.training import TRAINING
from sidestep_core.training.config import TrainConfig

REFERENCE = Path(__file__).with_name("reference.csv")
"""Flags, types and defaults of Side-Step's argument reference."""
OPTIONS = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")

REQUIRED = {
    "fixed": "--checkpoint-dir c", "selective": "--checkpoint-dir c",
    "estimate": "--checkpoint-dir c --dataset-dir d", "compare-configs": "--configs a.json b.json",
    "build-dataset": "--input songs",
}
MEANING: dict[str, tuple[str, str, Any]] = {
    # flag: (value, where it goes, what it is there)
    "--plain": ("", "plain", True), "--yes": ("", "yes", True), "-y": ("", "yes", True),
    "--checkpoint-dir": ("models", "checkpoint_dir", Path("models")),
    "--model-variant": ("my-finetune", "model_variant", "my-finetune"), "--base-model": ("sft", "base_model", "sft"),
    "--device": ("cuda:1", "train.device", "cuda:1"), "--precision": ("fp16", "train.precision", "fp16"),
    "--dataset-dir": ("tensors", "dataset_dir", Path("tensors")),
    "--num-workers": ("4", "without_effect", ["--num-workers"]),
    "--pin-memory": ("", "without_effect", ["--pin-memory"]),
    "--no-pin-memory": ("", "without_effect", ["--no-pin-memory"]),
    "--prefetch-factor": ("2", "without_effect", ["--prefetch-factor"]),
    "--persistent-workers": ("", "without_effect", ["--persistent-workers"]),
    "--no-persistent-workers": ("", "without_effect", ["--no-persistent-workers"]),
    "--offload-encoder": ("", "without_effect", ["--offload-encoder"]),
    "--no-offload-encoder": ("", "without_effect", ["--no-offload-encoder"]),
    "--bias": ("lora_only", "without_effect", ["--bias"]),
    "--lr": ("3e-4", "train.learning_rate", 3e-4), "--learning-rate": ("3e-4", "train.learning_rate", 3e-4),
    "--batch-size": ("2", "train.batch_size", 2), "--gradient-accumulation": ("8", "train.gradient_accumulation", 8),
    "--epochs": ("7", "train.epochs", 7), "--warmup-steps": ("5", "train.warmup_steps", 5),
    "--weight-decay": ("0.1", "train.weight_decay", 0.1), "--max-grad-norm": ("0.5", "train.max_grad_norm", 0.5),
    "--seed": ("7", "train.seed", 7), "--chunk-duration": ("60", "train.chunk_duration", 60.0),
    "--shift": ("2", "train.shift", 2.0), "--num-inference-steps": ("20", "train.inference_steps", 20),
    "--optimizer-type": ("prodigy", "train.optimizer", "prodigy"),
    "--scheduler-type": ("linear", "train.schedule", "linear"),
    "--gradient-checkpointing": ("", "train.gradient_checkpointing", "on"),
    "--no-gradient-checkpointing": ("", "train.gradient_checkpointing", "off"),
    "--adapter-type": ("lokr", "adapter_type", "lokr"),
    "--rank": ("16", "lora.rank", 16), "-r": ("16", "lora.rank", 16),
    "--alpha": ("32", "lora.alpha", 32.0), "--dropout": ("0.2", "adapter.dropout", 0.2),
    "--target-modules": ("q_proj v_proj", "adapter.target_modules", ("q_proj", "v_proj")),
    "--attention-type": ("cross", "adapter.attention_type", "cross"),
    "--self-target-modules": ("q_proj", "adapter.self_target_modules", ("q_proj",)),
    "--cross-target-modules": ("k_proj v_proj", "adapter.cross_target_modules", ("k_proj", "v_proj")),
    "--lokr-linear-dim": ("8", "lokr.linear_dim", 8), "--lokr-linear-alpha": ("16", "lokr.alpha", 16.0),
    "--lokr-factor": ("-1", "lokr.factor", -1), "--lokr-decompose-both": ("", "lokr.decompose_both", True),
    "--lokr-use-tucker": ("", "lokr.use_tucker", True), "--lokr-use-scalar": ("", "lokr.use_scalar", True),
    "--lokr-weight-decompose": ("", "lokr.weight_decompose", True),
    "--output-dir": ("out", "output_dir", Path("out")), "--save-every": ("3", "save_every", 3),
    "--resume-from": ("run/checkpoint-step-4", "resume_from", Path("run/checkpoint-step-4")),
    "--log-dir": ("logs", "log_dir", Path("logs")), "--log-every": ("5", "train.log_every", 5),
    "--log-heavy-every": ("25", "train.log_heavy_every", 25),
    "--sample-every-n-epochs": ("2", "sample_every_n_epochs", 2),
    "--preprocess": ("", "preprocess", True), "--audio-dir": ("music", "audio_dir", Path("music")),
    "--dataset-json": ("d.json", "dataset_json", Path("d.json")),
    "--tensor-output": ("t", "tensor_output", Path("t")), "--max-duration": ("0", "preprocess.max_seconds", 0),
    "--normalize": ("lufs", "preprocess.normalise", "lufs"), "--cfg-ratio": ("0.2", "train.cfg_ratio", 0.2),
    "--loss-weighting": ("min_snr", "train.loss_weighting", "min_snr"), "--snr-gamma": ("4", "train.snr_gamma", 4.0),
    "--module-config": ("e.json", "module_config", Path("e.json")), "--auto-estimate": ("", "auto_estimate", True),
    "--estimate-batches": ("8", "estimate.estimate_batches", 8), "--top-k": ("5", "selection.top_k", 5),
    "--granularity": ("layer", "selection.granularity", "layer"),
    "--output": ("o.json", "output", Path("o.json")), "--configs": ("a b", "configs", [Path("a"), Path("b")]),
    "--input": ("songs", "input", Path("songs")), "-i": ("songs", "input", Path("songs")),
    "--tag": ("word", "build.trigger_word", "word"), "--tag-position": ("append", "build.trigger_position", "append"),
    "--genre-ratio": ("25", "genre_ratio", 25), "--name": ("mine", "name", "mine"),
}
ELSEWHERE = {"estimate": {"--device": "estimate.device", "--precision": "estimate.precision", "--seed": "estimate.seed",
                          "--batch-size": "batch_size"}}
"""Where flags of `fixed` go in another subcommand."""
VALUES = {("estimate", "--precision"): "bf16"}


def referenced() -> Iterator[tuple[str, str]]:
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for flag in row["flags"].split():
                yield row["subcommand"], flag


def parsed(subcommand: str, *words: str, before: tuple[str, ...] = ()) -> argparse.Namespace:
    return build_parser().parse_args([*before, subcommand, *REQUIRED[subcommand].split(), *words])


def test_reference_is_whole() -> None:
    found = list(referenced())
    assert len(found) == 92
    assert {flag for _, flag in found} == set(MEANING)


@pytest.mark.parametrize(("subcommand", "flag"), referenced())
def test_flag_has_its_meaning(subcommand: str, flag: str) -> None:
    value, place, wanted = MEANING[flag]
    place = ELSEWHERE.get(subcommand, {}).get(flag, place)
    if (subcommand, flag) in VALUES:
        value = wanted = VALUES[subcommand, flag]
    words = (flag, *value.split())
    if subcommand == "global":
        for found in (parsed("fixed", before=words), parsed("fixed", *words)):
            assert vars(found)[place] == wanted
        assert vars(parsed("fixed"))[place] != wanted
        return
    section, _, name = place.rpartition(".")
    found = parsed(subcommand, *words)
    assert (flags.values(found, section)[name] if section else vars(found)[name]) == wanted


@pytest.mark.parametrize("subcommand", ["fixed", "selective"])
def test_selective_has_all_flags_of_fixed(subcommand: str) -> None:
    for owner, flag in referenced():
        if owner == "fixed":
            assert vars(parsed(subcommand, flag, *MEANING[flag][0].split()))["command"] == subcommand


@pytest.mark.parametrize("words", ["--rank none", "--rank 0", "--dropout 2", "--optimizer sgd", "--lr fast",
                                   "--save-every 0", "--unknown 1", "--lr"])
def test_wrong_usage_is_exit_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed("fixed", *words.split())
    assert end.value.code == 2
    assert words.split()[0] in capsys.readouterr().err


TABLES: list[tuple[type[Config], Settings, str, str]] = [
    (TrainConfig, TRAINING, "fixed", "train"), (PreprocessConfig, PREPROCESS, "fixed", "preprocess"),
    (EstimateConfig, ESTIMATE, "estimate", "estimate"), (SelectionConfig, SELECTION, "selective", "selection"),
    *((config, adapter_tables.PLACEMENT | adapter_tables.KINDS[kind], "fixed", kind)
      for kind, config in configs().items()),
]
"""Config, its table, a subcommand that has its flags, and their section."""


@pytest.mark.parametrize(("kind", "table"), [row[:2] for row in TABLES], ids=lambda part: getattr(part, "__name__", ""))
def test_table_has_each_setting(kind: type[Config], table: Settings) -> None:
    assert sorted(table) == sorted(field.name for field in fields(kind))


@pytest.mark.parametrize(("kind", "table", "subcommand", "section"), TABLES)
def test_setting_has_flag_and_page(kind: type[Config], table: Settings, subcommand: str, section: str) -> None:
    actions = {action.dest: action for action in reversed(actions_of(subcommand))}
    for name in table:
        sections = (section, "adapter", "lora") if name in names.SHARED.get(section, ()) else (section, "adapter")
        found = [actions[f"{one}.{name}"] for one in sections if f"{one}.{name}" in actions]
        assert len(found) == 1, name
        assert table[name].tooltip.replace("%", "%%") in str(found[0].help) or section == "loha", name
        assert f"`{name}`" in OPTIONS, name


def actions_of(subcommand: str) -> list[argparse.Action]:
    [commands] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return list(commands.choices[subcommand]._actions)


def test_every_flag_is_on_the_page() -> None:
    missing = {flag for subcommand in REQUIRED for action in actions_of(subcommand) for flag in action.option_strings
               if f"`{flag}`" not in OPTIONS and flag not in ("-h", "--help") and not is_a_settings_own(flag, action)}
    assert missing == set()


def is_a_settings_own(flag: str, action: argparse.Action) -> bool:
    """Tell a flag that is a setting's own name, or the name with `no-` before it, from one that the page must name."""
    kind, _, name = action.dest.rpartition(".")
    plain = flag.replace("--no-", "--", 1).replace(f"--{kind}-", "--", 1)
    return plain == f"--{name.replace('_', '-')}" and f"`{name}`" in OPTIONS


def test_no_flag_means_the_default() -> None:
    found = parsed("fixed", "--output-dir", "o")
    assert settings.adapter(found, configs()["lora"]()) == configs()["lora"]()
    assert flags.values(found, "train") == {}


def test_preset_is_the_base() -> None:
    found = parsed("fixed", "--preset", "quick_test", "--alpha", "20")
    base = settings.given_preset(found)
    assert settings.adapter(found, base.adapter).to_json()["rank"] == 16
    assert settings.adapter(found, base.adapter).alpha == 20


def test_other_kinds_flags_are_named() -> None:
    found = parsed("fixed", "--lokr-factor", "8", "--rank", "8")
    assert list(settings.unused(found, "lora")) == ["factor of a lokr is not used: the adapter is a lora."]
    assert list(settings.unused(parsed("fixed", "--adapter-type", "loha", "--rank", "8"), "loha")) == []


def test_words_are_written_as_defaults() -> None:
    """The text of a setting is part of an adapter's file, which must not depend on where it was trained."""
    for name in WORDS:
        for kind, *_ in TABLES:
            field = next((field for field in fields(kind) if field.name == name), None)
            if field is not None and flags.spelled_default(kind, name) == WORDS[name]:
                assert repr(parse_setting(kind, name, WORDS[name])) == repr(field.default), name
