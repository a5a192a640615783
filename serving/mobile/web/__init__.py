"""A page that runs a .tflite in the browser."""
