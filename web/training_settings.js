// Dims the widgets of Training Settings that do not count with the values of others.

const ofSampler = ({ timestep_mode }) => ["discrete", "sampler"].includes(timestep_mode);

const COUNTS = {
  schedule: ({ optimizer }) => optimizer !== "adamw_schedulefree",
  // auto is constant with prodigy.
  warmup_steps: ({ optimizer, schedule }) => schedule !== "constant" && (optimizer !== "prodigy" || schedule !== "auto"),
  restarts: ({ optimizer, schedule }) => optimizer !== "adamw_schedulefree" && schedule === "cosine_restarts",
  ema_decay: ({ optimizer }) => optimizer !== "adamw_schedulefree",
  lora_plus_ratio: ({ optimizer }) => optimizer !== "prodigy",
  timestep_preset: (values) => !ofSampler(values),
  timestep_mu: (values) => !ofSampler(values) && values.timestep_preset === "custom",
  timestep_sigma: (values) => !ofSampler(values) && values.timestep_preset === "custom",
  // auto takes the times of the sampler on turbo.
  discrete_shift: (values) => ofSampler(values) || values.timestep_mode === "auto",
  snr_gamma: ({ loss_weighting }) => loss_weighting !== "none",
  codes_ratio: ({ context_mode }) => context_mode === "mixed",
  log_every: ({ tensorboard }) => tensorboard,
  log_heavy_every: ({ tensorboard }) => tensorboard,
};

export function dimUnused(node) {
  function update() {
    const values = Object.fromEntries(node.widgets.map(({ name, value }) => [name, value]));
    for (const widget of node.widgets) widget.disabled = COUNTS[widget.name]?.(values) === false;
  }
  for (const widget of node.widgets) {
    const { callback } = widget;
    widget.callback = function () {
      callback?.apply(this, arguments);
      update();
    };
  }
  const { onConfigure } = node;
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    update();
  };
  update();
}
