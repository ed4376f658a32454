"""The paper in miniature: its claims tried on the checkpoints that ship, offline, on a CPU, and told as they come out.

`experiments` runs what is needed, step by step; `claims` judges by intervals; `report` writes it down.
"""
