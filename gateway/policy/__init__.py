"""MAY THEY: reads CAM policies and decides calls against them.

Pure: no files, no clock, no sockets. Read in this order:

- what was written: `document` (`action`, `resource`, `condition`, all on `pattern`), `trust`;
- who has it: `accounts`, `snapshot` (rights, in layers), `limits`;
- does a statement apply: `match`; how layers settle a query: `verdict`;
- the two evaluators: `plans` (fast; `plan` is what it makes) and `enforcer` (casbin's only door);
- the decision: `decision_point`, with `scope` (what a list may show) and `decision` (why);
- what is kept of it: `record`; asked again: `question`, `simulation`, `comparison`, `suggestion`;
- policies tested like code: `scenarios`, `coverage`, `lint`.
"""
