"""Side-Step: train adapters for ACE-Step 1.5.  Pure torch; knows nothing of ComfyUI.

    open_checkpoint    file or folder           -> Checkpoint       checkpoint.py
    find_songs         folder or dataset.json   -> SongFolder       songs.py, sidecars.py, song_lists.py, embedded.py
    build, captioned   SongFolder + words       -> SongFolder       build.py; written by dataset_json.py, write_back.py
    listen, split      SongFolder               -> SongFolder       listening.py, sections.py; as a table: song_table.py
    preprocess         Checkpoint + songs       -> Dataset          preprocess.py, latents.py; its folder: cache.py
    import_tensors     .pt of other programs    -> Dataset          foreign_tensors.py
    LoraConfig ...     what to adapt, and how   -> AdapterConfig    adapter_config.py, targets.py, kinds.py
    TrainConfig        every other setting      -> TrainConfig      train_config.py; both in one file: presets.py
    estimate           Checkpoint + Dataset     -> Estimate         estimate.py; its file: sensitivity.py
    applied            Estimate + AdapterConfig -> AdapterConfig    selection.py: which modules, with which ranks
    train              all of the above         -> Adapter          train.py
    layouts.read       adapter file of any kind -> Content          layouts.py
    merge              Checkpoint + adapters    -> model file       merge.py

`train` encodes what the dataset still lacks (ensure_conditions, encoding.py), puts an adapter on the decoder
(kinds.attach: lora.py through PEFT, or lycoris.py), starts it where the run stands (start.py), and writes and proves
what it makes (results.py, run_state.py).  The mathematics is in flow.py and loss.py; one step is in step.py.

`listen` measures levels (levels.py, loudness.py), tempo and key (tempo.py, musical_key.py) and finds songs that are
there twice (fingerprints.py).  `preprocess` decodes one song ahead (ahead.py) and says how a song is called in
captions.py.  Where ComfyUI is not the host, standalone.py lends the VAE and the tokenizer.

`estimate` trains nothing: it looks at the gradients of the frozen weights (probe.py) and keeps a few sums of them, of
which it makes the scores (gradient_sums.py).  They are shown by heatmap.py and tables.py.

Every stage takes frozen handles (paths and small facts), returns one, and reports through one callable (progress.py),
which may cancel it.  What a person can mend is a SideStepError (errors.py).
"""
