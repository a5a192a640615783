"""What the replicas of a step know together."""

import tensorflow as tf


def total(values: tf.Tensor) -> tf.Tensor:
    """Return the sums over the replicas; with one replica, the values as they are."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
