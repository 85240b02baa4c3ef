"""The model: ACE-Step 1.5's files, decoder, condition encoders and flow matching.

Central names: `checkpoint.open_checkpoint`, `decoder.load_decoder`, `condition_encoder`, `flow_matching`."""
