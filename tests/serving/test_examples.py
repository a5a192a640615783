"""Classify and Regress: which signatures take tf.Examples, and which outputs are answers."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, model_pb2, regression_pb2

from serving.embedded import examples
from serving.embedded.errors import StatusError
from tests.serving import served_models

LABELS = np.array([[b"a", b"b"], [b"c", "ü".encode()]], object)
SCORES = np.float32([[0.25, 0.75], [1, 2]])


class Fake:
    """A servable of one signature, `s`, that answers what it was made with."""

    def __init__(self, answers, inputs=None, outputs=None, method="tensorflow/serving/predict"):
        self.answers, self.asked = answers, []
        self.made = meta_graph_pb2.SignatureDef(method_name=method)
        for alias, dtype in (inputs or {"inputs": tf.string}).items():
            self.made.inputs[alias].dtype = dtype.as_datatype_enum
        for alias in outputs or answers:
            self.made.outputs[alias].dtype = tf.float32.as_datatype_enum

    def signature(self, name):
        return {"s": self.made}[name]

    def run(self, name, inputs, outputs, deadline):
        self.asked.append(inputs["inputs"])
        return [self.answers[alias] for alias in outputs]


def two_examples():
    source = input_pb2.Input()
    source.example_list.examples.extend(served_models.example(x=value) for value in (1, 2))
    return source


def run(servable, kind, source=None):
    result = {
        examples.CLASSIFY: classification_pb2.ClassificationResult,
        examples.REGRESS: regression_pb2.RegressionResult,
    }[kind]()
    spec = model_pb2.ModelSpec(name="m", signature_name="s")
    examples.run(servable, source or two_examples(), [(spec, kind, result)])
    return result


def classified(result):
    return [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]


def test_labels_and_scores_go_together():
    result = run(Fake({"classes": LABELS, "scores": SCORES}), examples.CLASSIFY)
    assert classified(result) == [[("a", 0.25), ("b", 0.75)], [("c", 1), ("ü", 2)]]


def test_labels_or_scores_alone_will_do():
    assert classified(run(Fake({"classes": LABELS}), examples.CLASSIFY)) == [
        [("a", 0), ("b", 0)],
        [("c", 0), ("ü", 0)],
    ]
    assert classified(run(Fake({"scores": SCORES}), examples.CLASSIFY)) == [
        [("", 0.25), ("", 0.75)],
        [("", 1), ("", 2)],
    ]


@pytest.mark.parametrize("values", [[3, 4], [[3], [4]]], ids=["vector", "column"])
def test_regressions_are_a_number_an_example(values):
    result = run(Fake({"outputs": np.float32(values)}), examples.REGRESS)
    assert [entry.value for entry in result.regressions] == [3, 4]


def test_the_signature_is_given_serialized_examples():
    fake = Fake({"outputs": np.float32([3, 4])})
    run(fake, examples.REGRESS)
    expected = [served_models.example(x=value) for value in (1, 2)]
    assert [tf.train.Example.FromString(content) for content in fake.asked[0]] == expected


def test_a_context_is_merged_into_every_example():
    fake = Fake({"outputs": np.float32([3, 4])})
    source = input_pb2.Input()
    source.example_list_with_context.context.CopyFrom(served_models.example(c=5))
    source.example_list_with_context.examples.extend(two_examples().example_list.examples)
    run(fake, examples.REGRESS, source)
    expected = [served_models.example(c=5, x=value) for value in (1, 2)]
    assert [tf.train.Example.FromString(content) for content in fake.asked[0]] == expected


@pytest.mark.parametrize("method", ["", "tensorflow/serving/predict", "anything"])
def test_the_name_of_the_method_does_not_matter(method):
    fake = Fake({"outputs": np.float32([3, 4])}, method=method)
    assert len(run(fake, examples.REGRESS).regressions) == 2


INPUTS = {"inputs": tf.string}


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "message"),
    [
        ("CLASSIFY", {**INPUTS, "more": tf.string}, ["scores"], "Expected one input Tensor."),
        ("CLASSIFY", {"x": tf.string}, ["scores"], "No classification inputs found"),
        ("CLASSIFY", {"inputs": tf.float32}, ["scores"], "Expected input Tensor of DT_STRING"),
        ("CLASSIFY", INPUTS, ["y"], 'at least one of "classes" or "scores"'),
        ("CLASSIFY", INPUTS, ["a", "classes", "scores"], "one or two output Tensors, found 3"),
        ("REGRESS", {**INPUTS, "more": tf.string}, ["outputs"], "Expected one input Tensor."),
        ("REGRESS", {"x": tf.string}, ["outputs"], "No regression inputs found"),
        ("REGRESS", {"inputs": tf.int64}, ["outputs"], "Expected input Tensor of DT_STRING"),
        ("REGRESS", INPUTS, ["y"], "No regression outputs found"),
        ("REGRESS", INPUTS, ["outputs", "y"], "Expected one output Tensor."),
    ],
)
def test_signatures_that_take_no_examples_are_told_before_they_run(kind, inputs, outputs, message):
    fake = Fake({}, inputs, outputs)
    with pytest.raises(StatusError) as caught:
        run(fake, getattr(examples, kind))
    assert message in caught.value.message
    assert caught.value.http == 400
    assert fake.asked == []


@pytest.mark.parametrize(
    ("kind", "answers", "message"),
    [
        ("CLASSIFY", {"scores": SCORES[0]}, "[batch_size num_classes] but got [2]"),
        ("CLASSIFY", {"scores": SCORES.astype(np.float64)}, "Expected scores Tensor of DT_FLOAT"),
        ("CLASSIFY", {"classes": SCORES}, "Expected classes Tensor of DT_STRING"),
        ("CLASSIFY", {"scores": SCORES[:1]}, "Expected scores output batch size of 2. Got: 1"),
        (
            "CLASSIFY",
            {"classes": LABELS, "scores": SCORES[:, :1]},
            "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
        ),
        ("REGRESS", {"outputs": SCORES}, "either [batch_size] or [batch_size, 1] but got [2,2]"),
        ("REGRESS", {"outputs": SCORES[0, :1]}, "did not match output batch size: 2 vs. 1"),
        ("REGRESS", {"outputs": np.array([3, 4])}, "Expected output Tensor of DT_FLOAT"),
    ],
)
def test_outputs_that_are_no_answers_are_told(kind, answers, message):
    with pytest.raises(StatusError) as caught:
        run(Fake(answers), getattr(examples, kind))
    assert message in caught.value.message
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
