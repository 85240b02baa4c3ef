// Dims the widgets of Training Settings that do not count with the values of others.

const COUNTS = {
  schedule: ({ optimizer }) => optimizer !== "prodigy",
  warmup_steps: ({ optimizer, schedule }) => optimizer !== "prodigy" && schedule !== "constant",
  restarts: ({ optimizer, schedule }) => optimizer !== "prodigy" && schedule === "cosine_restarts",
  timestep_preset: ({ timestep_mode }) => timestep_mode !== "discrete",
  timestep_mu: ({ timestep_mode, timestep_preset }) => timestep_mode !== "discrete" && timestep_preset === "custom",
  timestep_sigma: ({ timestep_mode, timestep_preset }) => timestep_mode !== "discrete" && timestep_preset === "custom",
  discrete_shift: ({ timestep_mode }) => timestep_mode === "discrete",
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
