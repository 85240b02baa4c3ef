"""Run folders, read for people: the record of a run, its curve and its summary.  Standard library only."""
