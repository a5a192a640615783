"""Networks made smaller by tfmot: the only room that knows tfmot or tf_keras.

tfmot works on tf_keras (Keras 2) alone, and importing it changes what `tf.keras` is; who never
compresses never loads either.
"""
