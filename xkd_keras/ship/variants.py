"""What a network can be shipped as. Imports nothing, so that a wrong flag is reported at once."""

# TFLite files, and how each is made; in the order of the tables.
VARIANTS = {
    "float32": "as trained",
    "float16": "weights in half precision, computes in float32",
    "dynamic": "weights int8, activations float32 (dynamic range)",
    "int8": "weights and activations int8 (post-training)",
    "int16x8": "weights int8, activations int16 (post-training)",
}
PRECISION = (
    "How often an answer is to be right, such as 0.95: what is less sure than it takes on the"
    " validation images is told to be none of the classes; 0: no such threshold."
)
SAVED_MODEL = "savedmodel"
KINDS = (SAVED_MODEL, *VARIANTS)  # all that a network is exported as
