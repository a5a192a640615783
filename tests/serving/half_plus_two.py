"""TF Serving's own example model, made as saved_model_half_plus_two.py of TensorFlow makes it."""

import tensorflow as tf

tf1 = tf.compat.v1
INFO = tf1.saved_model.utils.build_tensor_info
PREDICT, REGRESS, CLASSIFY = (f"tensorflow/serving/{w}" for w in ("predict", "regress", "classify"))


def write(path):
    """Write the model: x / 2 + 2, where x is float32 (None, 1), with its three signatures.

    x is parsed from tf.Examples, or fed: "x" in the middle of the graph has a shape of rank 2.
    """
    with tf.Graph().as_default(), tf1.Session() as session:
        serialized = tf1.placeholder(tf.string, name="tf_example")
        features = {"x": tf.io.FixedLenFeature([1], tf.float32)}
        x = tf.identity(tf.io.parse_example(tf.reshape(serialized, [-1]), features)["x"], name="x")
        a, b = tf1.Variable(0.5, name="a"), tf1.Variable(2.0, name="b")
        y = tf.add(tf.multiply(a, x), b, name="y")
        session.run(tf1.global_variables_initializer())
        made = tf1.saved_model.build_signature_def
        signatures = {
            "serving_default": made({"x": INFO(x)}, {"y": INFO(y)}, PREDICT),
            "regress_x_to_y": made({"inputs": INFO(serialized)}, {"outputs": INFO(y)}, REGRESS),
            "classify_x_to_y": made({"inputs": INFO(serialized)}, {"scores": INFO(y)}, CLASSIFY),
        }
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def write_typed(path, *dtypes):
    """Write a model with a signature `echo_DTYPE` for each dtype; its input is (None, 1)."""
    with tf.Graph().as_default(), tf1.Session() as session:
        signatures = {}
        for dtype in dtypes:
            x = tf1.placeholder(dtype, [None, 1], name=f"x_{dtype.name}")
            same = tf.identity(x)
            signatures[f"echo_{dtype.name}"] = tf1.saved_model.build_signature_def(
                {"x": INFO(x)}, {"y": INFO(same)}, PREDICT
            )
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()
