"""Settings of a training: fields of training.config.TrainConfig."""

from __future__ import annotations

from .setting import MANY, Setting, Settings

TRAINING: Settings = {
    "max_steps": Setting(
        "Length of the training in optimizer steps. 1000 is a good first try; listen, then take more if the style is "
        "weak. Another number of steps is another run, from the start.", 1, MANY),
    "epochs": Setting(
        "Length of the training in passes over all songs, in place of max_steps."),
    "optimizer": Setting(
        "adamw: the usual one. adamw8bit: a quarter of the memory for its state (pip install bitsandbytes). adafactor: "
        "hardly any state. prodigy finds the learning rate itself, and always runs at 1.0 (pip install prodigyopt). "
        "adamw_schedulefree averages the weights in place of a schedule, and publishes the average (pip install "
        "schedulefree); its authors recommend 1 to 10 times the learning rate. A missing package is an error."),
    "learning_rate": Setting(
        "Size of each step. 0.0001 is usual; lower it if the loss jumps. prodigy always runs at 1.0.",
        1e-8, 1.0, 1e-6, 1e-8),
    "schedule": Setting(
        "Course of the learning rate after warm-up. cosine and linear fall to 1 % at the end; cosine_restarts does so "
        "several times; constant and constant_with_warmup stay. auto: cosine, or constant with prodigy, for which its "
        "authors recommend constant or cosine. adamw_schedulefree is always constant, with warm-up."),
    "warmup_steps": Setting(
        "Steps in which the learning rate rises from 10 % to 100 %; at most a tenth of the run.", 0, 100_000),
    "restarts": Setting("Number of cosines with schedule cosine_restarts.", 1, 100),
    "weight_decay": Setting("Strength of the pull of the adapter's weights towards zero.", 0.0, 1.0, 0.001),
    "max_grad_norm": Setting("Largest norm of a gradient; larger ones are scaled down to it.", 0.01, 1000.0, 0.01),
    "batch_size": Setting(
        "Songs per forward pass, if their lengths agree (chunk_duration makes them agree); others run one by one. "
        "Costs memory.", 1, 64),
    "gradient_accumulation": Setting(
        "Forward passes per step. More makes each step steadier and slower, and costs no memory.", 1, 256),
    "ema_decay": Setting(
        "Decay of a moving average of the adapter, which is then measured and published: 0.99 to 0.999 for runs of "
        "hundreds to thousands of steps, or off."),
    "timestep_mode": Setting(
        "Noise levels to train at. continuous: the model's own distribution, the larger of two draws. logit_normal: "
        "one draw, as in Side-Step's guide; more time on nearly clean music. discrete: the eight times of turbo's "
        "sampler. sampler: the times of a sampler of many steps. auto: discrete on turbo, which of 100 continuous "
        "times would train 1 where it takes 3 of its 8 steps; else continuous."),
    "timestep_preset": Setting(
        "Mean and spread of the noise levels. model: the checkpoint's own. detail: less noise. structure: more noise. "
        "wide, tight: more or less spread. custom: the two numbers below. Not used by discrete and sampler."),
    "timestep_mu": Setting("Mean with timestep_preset custom; lower is less noise.", -10.0, 10.0, 0.05),
    "timestep_sigma": Setting("Spread with timestep_preset custom.", 0.01, 10.0, 0.01),
    "discrete_shift": Setting(
        "Shift of the sampler whose times timestep_mode discrete and sampler train: the one you generate with (3 is "
        "usual), or all three, mixed, as turbo itself was trained."),
    "loss_weighting": Setting(
        "none: all noise levels count the same, as the model was trained. min_snr: Side-Step's formula; it damps "
        "nearly clean times, not the noisy ones as widely described. min_snr_flow: the same idea derived for this "
        "model's loss; it damps both ends."),
    "snr_gamma": Setting("Threshold of loss_weighting's damping; lower damps more.", 0.01, 100.0, 0.1),
    "cfg_ratio": Setting(
        "Share of samples trained without caption and lyrics, from 0 to 1; guidance (CFG) needs some. automatic: 0.15 "
        "as the model was trained, or 0 on turbo at the times of a sampler, as turbo generates without guidance."),
    "genre_ratio": Setting(
        "Chance that a song is trained with its genre in place of its caption, if it has both. automatic: as the "
        "dataset was built, 0 unless it says otherwise."),
    "context_mode": Setting(
        "Context given to the model. silence: none, as with generate_audio_codes off in ComfyUI's text node. codes: "
        "the song's own audio codes; ComfyUI's text node feeds codes by default. mixed: both in turn. silence is the "
        "default until the difference is measured."),
    "codes_ratio": Setting("Chance of codes with context_mode mixed.", 0.0, 1.0, 0.01),
    "chunk_duration": Setting(
        "Seconds of the random crop drawn from each song: much less memory and time than whole songs. 60 is "
        "recommended, below it may hurt."),
    "heldout_songs": Setting(
        "Songs kept aside to measure progress honestly. automatic: one in ten; below ten songs the last tenth of each, "
        "if crops are trained or a setting judges by it (else the songs trained on are measured)."),
    "heldout_every": Setting("Steps between two such measurements.", 1, 100_000),
    "early_stopping": Setting(
        "Number of held-out losses, none lower by more than its error, after which the training stops. Needs songs "
        "kept aside."),
    "target_loss": Setting(
        "Held-out loss at which the training stops once it falls no more. Needs songs kept aside."),
    "publish": Setting(
        "Adapter put into the LoRA folder: that of the last step, or that of the lowest mean held-out loss (best). "
        "Both stay in the run's folder. best needs songs kept aside."),
    "save_every": Setting("Steps between two checkpoints, from which a run continues after a crash.", 1, 100_000),
    "save_minutes": Setting("Minutes after which another checkpoint is saved, however slow the steps are."),
    "keep_checkpoints": Setting("Number of latest checkpoints that stay; all takes space."),
    "tensorboard": Setting("Write curves for TensorBoard into the run's folder (pip install tensorboard)."),
    "log_every": Setting("Steps between two points in TensorBoard.", 1, 100_000),
    "log_heavy_every": Setting(
        "Steps between two histograms of the noise and gradient norms of each layer in TensorBoard.", 1, 100_000),
    "preview_every": Setting(
        "Steps between two short previews with the adapter so far; one is made before the training. Each takes the "
        "time of a generation."),
    "preview_caption": Setting("Caption of the previews. Empty: that of the first song."),
    "preview_lyrics": Setting("Lyrics of the previews. Empty: instrumental."),
    "preview_seconds": Setting("Length of a preview in seconds.", 1.0, 600.0, 1.0),
    "shift": Setting(
        "Shift of previews, also noted in the adapter's metadata; training never uses it. automatic: turbo 3, base "
        "and sft 1."),
    "inference_steps": Setting(
        "Steps of previews, also noted in the adapter's metadata; training never uses them. automatic: turbo 8, base "
        "and sft 50."),
    "seed": Setting("The same seed, songs and settings give the same adapter.", 0, 2**53),
    "device": Setting("Device of the training: auto, cpu, cuda, cuda:1, mps or xpu."),
    "precision": Setting(
        "Precision of the frozen model; the adapter is always trained in fp32. auto: bf16 if the device has it, else "
        "fp32. fp16 is for older graphics cards."),
    "gradient_checkpointing": Setting(
        "Recompute layers in the backward pass: much less memory, up to a third more time, the same result. auto: as "
        "many layers as the free memory asks for."),
    "attention": Setting(
        "Program that computes the attention. auto: the fastest that runs on your device and passes a test there: "
        "varlen (flash attention of PyTorch 2.11 or newer), flash_attn (the package flash-attn), or sdpa, which runs "
        "everywhere. Choose sdpa if a training fails in the attention."),
    "timestep_sampling": Setting(
        "stratified: the noise levels of a step, and those of a song from step to step, are spread evenly. "
        "independent: each is drawn for itself. The distribution is the same."),
    "preserve": Setting(
        "Chance, up to 1, that a sample teaches the adapter to change nothing: without the trigger word, at the times "
        "of the sampler, it shall predict what the model predicts alone. Keeps turbo's distillation, and other music "
        "as it was, for one more forward pass each. 0.25 is a start."),
    "guidance": Setting(
        "Scale of guidance that the model has built in, as distilled models may have: targets get it too, so that the "
        "adapter does not train it away. Costs a forward pass per sample. Leave it off unless you know the scale."),
    "base_precision": Setting(
        "Precision that the frozen model is kept in. as_file: fp8 and int8 files stay as they are and train exactly as "
        "if unpacked; others are kept in precision. bf16: unpacked. int8 and fp8 halve a bf16 model, nf4 takes a "
        "quarter (pip install bitsandbytes); these change the result a little."),
    "offload": Setting(
        "Keep layers of the frozen model in the computer's memory and copy them to the card as they are needed: less "
        "memory, more time, the same result. auto: only those that do not fit otherwise."),
    "allow_fewer_bits": Setting(
        "If memory runs out and nothing else is left, go on with the model in int8, then nf4, which changes the "
        "result a little. Off: the training stops, with its last step saved."),
    "crop_lyrics": Setting(
        "Lyrics that a crop is trained with. timed: those sung in it, where the lyrics have times (LRC), else all of "
        "the song's. estimated: without times, as large a share of the lines as the crop is of the song. whole: all of "
        "them, whatever is sung."),
    "lyrics_dropout": Setting(
        "Chance, up to 1, that a sample is trained without its lyrics, but with its caption. Above a few percent only "
        "where lyrics fit badly."),
    "caption_dropout": Setting(
        "Chance, up to 1, that a sample is trained without its caption, but with its lyrics; cfg_ratio leaves out "
        "both."),
    "lora_plus_ratio": Setting(
        "LoRA+: how many times the learning rate the second matrix (B) of a LoRA gets. 16 is what its paper "
        "recommends; halve the learning rate with it. Not with prodigy, LoKR or LoHA."),
    "devices": Setting(
        "all: every card of this computer computes some of a step's passes, so set gradient_accumulation to a multiple "
        "of their number. The adapter is that of one card. Previews and the loss are made on the first."),
    "compile": Setting(
        "Compile the layers of a LoRA with PyTorch's compiler before the first step, which then takes minutes. auto: "
        "on NVIDIA cards, for 500 steps or more, if triton and a C++ compiler are there. on: also on a CPU. The result "
        "differs by rounding only; if the compiler fails, the training goes on without it. No card was measured yet."),
}  # fmt: skip
