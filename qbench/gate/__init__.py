"""The gate: is a revision slower than another? Interleaved runs of both, decided by a sequential test.

`rule` decides and knows numbers only; `replay` tries it on recorded noise; `worktree`, `side` and `worker` run two
revisions beside each other; `run` joins them; `words` says what was found.
"""
