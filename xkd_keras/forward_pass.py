"""Which pass of a training step this is: the first, or one more of what was not kept."""

import contextvars

# Layers that keep statistics of their own move them, over all replicas, in the first pass only.
FIRST = contextvars.ContextVar("FIRST", default=True)
