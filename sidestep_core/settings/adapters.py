"""Settings of adapters: fields of adapters.config.AdapterConfig, and of each kind's own config."""

from __future__ import annotations

from collections.abc import Mapping

from .setting import Setting, Settings

_DORA = ("DoRA: train the length of each column of a weight apart from its direction. On the input side, as only that "
         "is exact in ComfyUI.")
_SCALAR = Setting("Train one more number per module, which scales it.")

PLACEMENT: Settings = {
    "dropout": Setting(
        "Leaves out random inputs while training, against copying. More for few songs, less for many.", 0.0, 0.9, 0.01),
    "attention_type": Setting(
        "self: sound, rhythm and structure. cross: how the music follows caption and lyrics. both: all. On the 2B "
        "model these are 96, 96 and 192 modules, on XL 128, 128 and 256."),
    "target_modules": Setting(
        "Which matrices of each attention are adapted, separated by spaces: q_proj k_proj v_proj o_proj."),
    "self_target_modules": Setting(
        "Other matrices for self-attention only, such as q_proj v_proj. Empty: those of target_modules."),
    "cross_target_modules": Setting(
        "Other matrices for cross-attention only. Empty: those of target_modules."),
    "target_mlp": Setting(
        "Also adapt the three matrices of every MLP, 72 more modules on 2B and 96 on XL: more room to learn and to "
        "copy, a larger file, more memory."),
    "module_ranks": Setting(
        "Another rank for single modules, one on each line: layers.0.*=16 or layers.23.cross_attn.q_proj=8. The "
        "last line that fits counts; rank 0 leaves the module out."),
    "rank_dropout": Setting(
        "Leaves out random ranks of a LoRA while training, or random rows of a LoKR or LoHA, for each sample. Against "
        "copying, like dropout; 0.1 to 0.3. Not with DoRA.", 0.0, 0.9, 0.01),
}
"""Settings that all kinds share."""

KINDS: Mapping[str, Settings] = {
    "lora": {
        "rank": Setting(
            "Capacity. 64 holds a style; 16 saves memory and copies less from few songs; 128 for large sets.", 1, 512),
        "alpha": Setting(
            "Scale of the adapter: alpha / rank. Twice the rank is usual. It is stored in the file: strength 1.0 is as "
            "trained.", 0.01, 2048.0, 0.01),
        "rslora": Setting(
            "Scale by alpha / sqrt(rank), so that large ranks learn as fast as small ones. With alpha 128 and rank 64 "
            "that is 16 instead of 2: lower alpha or the learning rate with it."),
        "dora": Setting(f"{_DORA} Slower and sometimes better."),
    },
    "lokr": {
        "linear_dim": Setting(
            "Rank of the large block. From half of the block's width on, the block is a full matrix, and this and "
            "alpha have no effect. That is so with factor automatic.", 1, 10_000),
        "alpha": Setting(
            "Scale of the adapter: alpha / linear_dim, unless the block is a full matrix. Twice linear_dim is usual. "
            "Side-Step calls it linear_alpha.", 0.01, 20_000.0, 0.01),
        "factor": Setting(
            "Main control of capacity. automatic splits a module of width 2048 into blocks of 32 and 64: 5,120 "
            "parameters (a LoRA of rank 64 has 262,144). 8 has a block 256 wide: 32,832 parameters at linear_dim 64. 4 "
            "has one 512 wide: 65,552."),
        "decompose_both": Setting("Split the small block too, if it is large enough. Fewer parameters."),
        "use_tucker": Setting(
            "Tucker decomposition of convolutions, handed to LyCORIS. The adapted modules are all linear, so it "
            "changes nothing on this model."),
        "use_scalar": _SCALAR,
        "weight_decompose": Setting(_DORA),
    },
    "loha": {
        "rank": Setting(
            "Rank of each of the two LoRAs. Their product reaches rank x rank; it takes twice the parameters of a LoRA "
            "of this rank.", 1, 512),
        "alpha": Setting(
            "Scale of the adapter: alpha / rank. It is stored in the file: strength 1.0 is as trained.",
            0.01, 2048.0, 0.01),
        "use_scalar": _SCALAR,
        "weight_decompose": Setting(_DORA),
    },
}  # fmt: skip
"""Kind of adapter -> the settings of its own, in the order of its node."""
