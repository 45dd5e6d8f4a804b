"""How much of the engine's disk is kept free, and from whom. Pure.

The executor kills what fills the disk once less than the floor is left. Whoever brings files there,
or keeps them, stops at twice as much: else what is brought for one command would end another one
that runs, though that has done nothing.
"""

from typing import Final

FLOOR_BYTES: Final = 67_108_864
FLOOR_PERCENT: Final = 1  # of the disk, if that is less
STAGING_FLOOR_BYTES: Final = 2 * FLOOR_BYTES
STAGING_FLOOR_PERCENT: Final = 2 * FLOOR_PERCENT
