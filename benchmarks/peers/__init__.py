"""Other stream processors, each in an environment of its own, over the rows that P5 takes.

``make bench-peers`` makes the environments; a script here imports its peer and pyarrow, nothing of
streamlab, and prints what the hot section took.
"""
