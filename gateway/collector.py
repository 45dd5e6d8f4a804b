"""The garbage collector, in processes that make much at once and keep it."""

import gc


def spare_what_stays() -> None:
    """Have the collector leave alone what was made until now, most of all a gateway's policies.

    Why: with ten thousand statements a full collection takes a tenth of a second, every few
    seconds, and finds nothing; meanwhile nobody is answered. And of 64 calls under way each has
    hundreds of objects, which stay until it is answered: they are looked for less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
