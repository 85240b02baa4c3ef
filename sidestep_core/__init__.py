"""Side-Step: train adapters for ACE-Step 1.5.  Pure torch; knows nothing of ComfyUI.

    open_checkpoint  file or folder           -> Checkpoint      checkpoint.py
    find_songs       folder                   -> Scan of Songs   songs.py
    preprocess       Checkpoint + songs       -> Dataset         preprocess.py
    LoraConfig       rank, alpha, where       -> what to adapt   config.py, targets.py
    train            all of the above         -> Adapter         train.py
    open_adapter     adapter file             -> Adapter         adapter.py

Every stage takes frozen handles (paths and small facts), returns one, and reports through one callable (progress.py),
which may cancel it.  What a person can mend is a SideStepError (errors.py).  The mathematics is in flow.py; one
training step is in step.py.
"""
