"""On the device: reference apps that need a .tflite and LiteRT, and no TensorFlow."""
