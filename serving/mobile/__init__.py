"""On the device: reference apps that need a .tflite and LiteRT, and nothing of TensorFlow."""
