"""Meaning and range of every setting in words: the one table behind a node's widgets, the command line and its help.

Types, choices and defaults are those of the configs (`config.Config`); their names are the keys here.
"""
