"""Run an experiment file to its table, for a command, a notebook or a script, with one run tree.

``inputs`` reads the files, ``planning`` makes the plan over a data set, ``session`` runs it. Commands and ``gfl_lab.open()``
call this package alone.
"""
