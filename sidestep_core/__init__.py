"""Side-Step's trainer for ACE-Step 1.5 adapters: pure torch, independent of ComfyUI.

    compare/     takes of one prompt, to choose by ear            comparison.write, strengths.parse_strengths
    settings/    meaning and range of each setting             training.TRAINING, setting.Setting
    presets/     adapter and training settings under a name       preset.read, foreign.translate
    estimate/    gradient scores, and the modules they choose     estimate, selection.select, influence
    training/    settings, the loop, everything a run writes      config.TrainConfig, train.train, controls.Controls
    dataset/     songs encoded once, as tensors on disk           preprocess.preprocess, manifest.Dataset
    adapters/    kinds, trainable layers, files, proof, merge     config, registry.attach, formats.read, merge.merge
    songs/       audio files, their metadata, analysis            scan.find_songs, analyze.analyze, split.split
    model/       checkpoint, decoder, encoders, flow matching     checkpoint.open_checkpoint, decoder.load_decoder
    audio/       decoding, container facts, measurements          decode.decode, container.facts
    runs/        run folders, read for people                     summary.read, curve.thinned, record.kept
    io/          files: atomic, bounded, typed, locked            atomic.write_json, tensors.read_tensors, record.Record
    errors, progress, config, device, rng, optional               for every package

Each package imports only those below it; tests/test_architecture.py holds the table.

Every stage takes frozen handles (paths and small facts), returns one, and reports through one callable (progress.py),
which may raise Cancelled.  Errors that a person can mend are SideStepErrors (errors.py).
"""
