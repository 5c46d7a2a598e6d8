"""A module a room: `REQUIRED`, what a part must be given; `CHANGES`, the other value of a key by (part, key); `probe`, what is seen of one.

A part or key `*` stands for all. `{other}`, `{model}` and `{data}` stand for what `places.py` makes.
"""
