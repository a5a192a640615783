"""The mathematics of co-training: losses and agreement. Logits in, [batch] out, no state.

Shapes: P peers, B images in the batch, C classes. Logits are float [P, B, C] (or [B, C] for one
peer); every loss is computed in float32 whatever the precision of the network.
"""

import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return -log softmax(logits)[label], or - sum_c y_c log softmax(logits)_c of mixed labels y.

    Args:
        labels: int [B], each in 0..C-1, or float [B, C] that sum to 1.
        logits: float [..., B, C].

    Returns:
        float32 [..., B], in nats.
    """
    labels, logits = tf.convert_to_tensor(labels), tf.cast(logits, tf.float32)
    if labels.dtype.is_floating:
        return -tf.reduce_sum(labels * tf.nn.log_softmax(logits), axis=-1)
    labels = tf.broadcast_to(labels, tf.shape(logits)[:-1])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def entropy(labels: tf.Tensor) -> tf.Tensor:
    """Return -sum_c y_c log y_c of mixed labels, below which no cross-entropy falls: float32 [B].

    Args:
        labels: int [B], whose entropy is 0, or float [B, C] that sum to 1.
    """
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_floating:
        return -tf.reduce_sum(tf.math.xlogy(labels, labels), axis=-1)
    return tf.zeros(tf.shape(labels))


def smoothed(labelled: tf.Tensor, logits: tf.Tensor, amount: float) -> tf.Tensor:
    """Return the cross-entropy of smoothed labels, (1 - e) y + e / C, from that of the labels y.

    (1 - e) CE(y, z) - e / C sum_c log softmax(z)_c (Szegedy et al., CVPR 2016, section 7).

    Args:
        labelled: float32 [..., B], CE(y, z); the labels may be mixed.
        logits: float [..., B, C].
        amount: e in 0..1; 0 returns `labelled` as it is.

    Returns:
        float32 [..., B], in nats.
    """
    if not amount:
        return labelled
    even = -tf.reduce_mean(tf.nn.log_softmax(tf.cast(logits, tf.float32)), axis=-1)
    return (1.0 - amount) * labelled + amount * even


def divergence(log_q: tf.Tensor, log_p: tf.Tensor) -> tf.Tensor:
    """Return KL(q || p), summed over the last axis and not divided by its length: float [...].

    Args:
        log_q: float [..., C], logarithms of probabilities.
        log_p: float [..., C], the same.
    """
    return tf.reduce_sum(tf.exp(log_q) * (log_q - log_p), axis=-1)


def distillation(teacher_logits: tf.Tensor, logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return T^2 KL(q || softmax(z / T)) with q = stop_gradient(softmax(z_T / T)).

    Args:
        teacher_logits: float [..., B, C]; no gradient flows into it.
        logits: float [..., B, C].
        temperature: T > 0.

    Returns:
        float32 [..., B], in nats.
    """
    teacher_logits = tf.stop_gradient(tf.cast(teacher_logits, tf.float32))
    log_q = tf.nn.log_softmax(teacher_logits / temperature)
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float32) / temperature)
    return temperature**2 * divergence(log_q, log_p)


def top1(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return 1.0 where the largest logit is the label's, else 0.0: float32 [..., B]."""
    guess = tf.argmax(logits, axis=-1, output_type=tf.int64)
    return tf.cast(tf.equal(guess, classes(labels)), tf.float32)


def classes(labels: tf.Tensor) -> tf.Tensor:
    """Return labels as int64 [B]; of mixed ones, float [B, C], the class with the largest share."""
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_floating:
        return tf.argmax(labels, axis=-1, output_type=tf.int64)
    return tf.cast(labels, tf.int64)


def by_class(terms, labels: tf.Tensor, class_weights) -> list[tf.Tensor]:
    """Return terms float32 [..., B], each image's times the weight of its class.

    Args:
        terms: float32 [..., B] each.
        labels: int [B], or float [B, C] of mixed ones: their weight is the mean of the classes'.
        class_weights: [C], or None: all count alike.
    """
    if class_weights is None:
        return list(terms)
    table = tf.constant(class_weights, tf.float32)
    mixed = labels.dtype.is_floating
    own = tf.linalg.matvec(labels, table) if mixed else tf.gather(table, labels)
    return [own * term for term in terms]


def agreement(logits: tf.Tensor) -> tf.Tensor:
    """Return, for each image, the fraction of pairs of peers that name the same class.

    Args:
        logits: float [P, B, C].

    Returns:
        float32 [B] in 0..1; 1 for a single peer.
    """
    peers = logits.shape[0]
    if peers == 1:
        return tf.ones(tf.shape(logits)[1])
    guess = tf.argmax(logits, axis=-1)  # [P, B]
    same = tf.cast(guess[:, None] == guess[None, :], tf.float32)  # [P, P, B]
    pairs = peers * (peers - 1)
    return (tf.reduce_sum(same, axis=[0, 1]) - peers) / pairs


def pairwise_kl(logits: tf.Tensor) -> tf.Tensor:
    """Return, for each image, the mean of KL(p_i || p_j) over the ordered pairs of peers i, j.

    Args:
        logits: float [P, B, C].

    Returns:
        float32 [B], in nats; 0 for a single peer.
    """
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    p, peers = tf.exp(log_p), logits.shape[0]
    # sum_ij p_i (log p_i - log p_j) = P sum_i p_i log p_i - (sum_i p_i) (sum_j log p_j)
    own = peers * tf.reduce_sum(p * log_p, axis=[0, 2])
    across = tf.reduce_sum(tf.reduce_sum(p, axis=0) * tf.reduce_sum(log_p, axis=0), axis=-1)
    return (own - across) / max(1, peers * (peers - 1))


def mean(values, sample_weight):
    """Return the mean over the batch, [..., B] -> [...], as Keras weighs examples: sum(w v) / B."""
    if sample_weight is not None:
        values = values * tf.cast(sample_weight, tf.float32)
    count = tf.cast(tf.shape(values)[-1], values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values, axis=-1), count)  # a replica may get none
