"""MAY THEY: reads CAM policies and decides calls against them.

Pure: no files, no clock, no sockets. Read in this order: `document` (what was written: `action`,
`resource`, `condition`, all on `pattern`), `accounts` and `snapshot` (who has it), `match` (does a
statement apply), `enforcer` (the decision; casbin's only door), `scope` (what a list may show),
`decision` (why), `scenarios` (decisions written down as tests).
"""
