"""One file a target: what it is given, and what must be true of any bytes at all.

A target is a module with `SEEDS()`, real inputs to begin with; `DICTIONARY`, words worth putting in; `MOST_BYTES`; a
`mutate` of a structure, or None; and `open_target()`, which yields the function that takes the bytes. That function
returns where they are taken or refused as they should be, and raises whatever else happens.
"""
