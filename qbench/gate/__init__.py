"""The gate: is a revision slower than another? Interleaved runs of both, decided by a sequential test.

`rule` decides and knows numbers only; `replay` tries it on recorded noise; `worktree`, `side` and `worker` run two
revisions beside each other, and speak `protocol`; `run` joins them; `rows` and `missing` say what was found and what
could not be seen, `words` and `publish` show it.
"""
