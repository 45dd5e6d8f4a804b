"""The executor: a small process of its own that runs commands and outlives the gateway.

`python -m gateway.batch.executor --root DIR` serves one gateway at a time on `DIR/executor.sock`.
Read it in this order: `frames` (what is said on the socket), `journal` (what must not be
forgotten), `ledger` (the attempts and where each stands), `folders` (where things are),
`isolation`, `mounts` and `mountinfo` (what a command may see), `group_trees` and `control_groups`
(what it may use, and the proof that it is dead), `containers`, `container_groups` and
`container_run` (all of that by podman or docker), `notes` (what both leave word of), `processes`
(what Linux knows of a process), `left_files` (reading what a command may have replaced), `samples`
and `held` (what it uses), `work_folders`, `wanted_folders` and `removal`, `programs`, `command` and
`spawning` (make ready), `spawn_server` and `spawn_pool` (processes beside it that spawn and wait),
`runner` (watch, kill), `abilities` (what can be done here), `server` (the loop), `recovery` (what a
dead one left), `__main__` (start all of it).

It imports the standard library, msgspec, the floor and the words of `engines`, nothing else.

Why a process of its own: spawning from a large process or from uvloop costs five times as much as
from a small one, and a gateway that is killed must take no running command with it.
"""
