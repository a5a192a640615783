"""What a network can be shipped as. Imports nothing, so that a wrong flag is reported at once."""

# TFLite files, and how each is made; in the order of the tables.
VARIANTS = {
    "float32": "as trained",
    "float16": "weights in half precision, computes in float32",
    "dynamic": "weights int8, activations float32 (dynamic range)",
    "int8": "weights and activations int8 (post-training)",
    "int16x8": "weights int8, activations int16 (post-training)",
}
SAVED_MODEL = "savedmodel"
KINDS = (SAVED_MODEL, *VARIANTS)  # all that a network is exported as
