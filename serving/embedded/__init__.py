"""TF Serving's protocol without TF Serving: the parts of `python -m serving.server`.

    errors         what can go wrong: one family of exceptions, with gRPC's and HTTP's codes
    options        everything that can be chosen about a server
    ports          where a server listens
    certificates   TLS of gRPC
    protos         the configuration messages that tensorflow-serving-api lacks
    metrics        what Prometheus reads
    calls          one call of either transport: counted, its failures given a status
    tensors        TensorProto <-> NumPy
    servable       one loaded version of a model, and how to run it
    batching       many requests, one call
    versions       which versions of a model are loaded: policies, polling, draining
    configs        which models a configuration asks for
    manager        all models of a server, and their labels
    examples       Classify, Regress and MultiInference on a servable
    inference      what a server answers: Predict, Classify, Regress, metadata, status
    warm_up        requests that are run before a version is served
    factory        from a version's directory to a servable that is warm and batches
    json_values    single JSON values
    json_inputs    JSON -> arrays
    json_outputs   arrays -> JSON
    json_examples  JSON <-> tf.Examples, classes and regressions
    rest_api       REST: the table of routes, and what each answers
    bodies         the body of a REST request: within limits, unzipped
    asgi           REST as an application: what is whose, pages
    connections    HTTP connections: how many, how long silent, how large their headers
    messages       the message of a gRPC call: waited for, within limits, worked on in its turn
    grpc_api       gRPC: the table of RPCs
    lifecycle      a whole server, from its options to its end

A module imports only from modules above it in this list. Nothing here knows xkd_keras or Keras: the
contract is what is on disk.

A new REST route is a line in `rest_api.ROUTES`, a new RPC a line in `grpc_api.SERVICES`; a new
metric is declared in `metrics`.
"""
