"""Mutation testing of scenarios: what one asserts must depend on what it does.

`mutants.py` makes scenarios without one of their faults, `trial.py` judges what came of one,
`proof.py` what all trials of a scenario say together: these are pure. `plays.py` plays them.
"""
