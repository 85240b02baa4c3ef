"""Training: settings, the loop, and everything that a run writes.

Central names: `config.TrainConfig`, `train.train`, `step.optimizer_step`, `run_checkpoint`."""
