"""Side-Step on the command line: as thin as the nodes, over the same core, settings, presets, runs and adapters.

    main         the door: arguments in, exit code out
    arguments    subcommands and their flags; flags makes one of every setting of the core
    models       model files behind --checkpoint-dir, and folders of results
    console      everything that is printed: rich, plain lines, or JSON
    train, estimate, songs, merge, listing, presets    one file per group of subcommands
"""
