"""Settings of an estimate (estimate.config.EstimateConfig), and of the choice by one (selection.SelectionConfig)."""

from __future__ import annotations

from .setting import Setting, Settings

ESTIMATE: Settings = {
    "score": Setting(
        "signal: how much of the gradient all samples agree on, the best guide to a training. gain: how much a LoRA "
        "there would lower the loss at first. gradient_norm: how strong the gradient is; ..._per_size: for the size of "
        "the matrix. fisher: its mean square."),
    "estimate_batches": Setting(
        "Number of samples to measure, at least 4; measuring ends earlier once the ranking is stable. automatic: ten "
        "of each song, 24 to 400 in all."),
    "chunk_duration": Setting("Seconds of the random crop measured of each song, as in training."),
    "target_mlp": Setting("Also measure the three matrices of every MLP."),
    "attention_type": Setting("Which attentions are measured."),
    "seed": Setting("The same seed, songs and settings give the same estimate.", 0, 2**53),
    "device": Setting("auto, cpu, cuda, cuda:1, mps or xpu."),
    "precision": Setting("auto: bf16 where the device has it, else fp32."),
}

SELECTION: Settings = {
    "choose": Setting(
        "With an estimate: the top_k best modules, the best percentile, as many as fit into million_parameters, or "
        "above_average: all whose score less its error is above the mean of all."),
    "granularity": Setting("module: single matrices. layer: those of one attention or MLP together."),
    "top_k": Setting("How many, where choose is top_k. 16 is what Side-Step took.", 1, 512),
    "percentile": Setting("Share of all modules in percent, where choose is percentile.", 0.1, 100.0, 1.0),
    "million_parameters": Setting(
        "What the adapter may have in all, where choose is parameters.", 0.01, 1000.0, 0.5),
    "minimum_per_category": Setting(
        "At least so many of self-attention, of cross-attention and of MLP each.", 0, 128),
    "rank_by_score": Setting("More rank where the score is higher, with no more parameters in all."),
    "min_rank": Setting("The lowest that rank_by_score gives.", 1, 256),
    "max_rank": Setting("The highest that rank_by_score gives.", 4, 512),
}
