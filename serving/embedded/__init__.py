"""TF Serving's protocol without TF Serving: the parts of `python -m serving.server`.

    failure      what went wrong, as gRPC and HTTP say it
    protos       the configuration messages that tensorflow-serving-api lacks
    tensors      TensorProto <-> NumPy
    servable     one loaded version of a model, and how to run it
    batching     many requests, one call
    versions     which versions of a model are loaded: policies, polling, labels, draining
    manager      all models of a server
    inference    Predict, Classify, Regress, MultiInference, metadata, status
    grpc_api     those over gRPC
    json_tensor  JSON <-> NumPy
    rest         those over REST
    metrics      what Prometheus reads

Imports point upwards in this list. Nothing here knows xkd_keras or Keras: only what is on disk.
"""
