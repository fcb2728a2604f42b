"""Planted bugs: does every check catch what it is there for?

`python -m tests.mutants` plants each bug of the catalogue in a copy of the packages, one at a time, and runs the
check that is meant to catch it. A check that misses its bug fails the run: it would have missed a user's as well.
A mutant that changes no result is listed apart, with the proof (equivalent.py).

    mutant.py     what a mutant is, and how it is planted
    catalogue/    the mutants, one module per area
    subjects.py   what the checks are run on: providers of a format with its options
    checks*.py    the checks by name; most are public entries of the packages
    run.py        one forked child per mutant, on a CPU, with Triton interpreted
    report.py     the tables
"""
