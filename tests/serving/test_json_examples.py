"""JSON <-> tf.Examples, classes and regressions."""

from types import SimpleNamespace

import numpy as np
import pytest
from tensorflow_serving.apis import classification_pb2

from serving.embedded import json_examples, json_values
from serving.embedded.errors import StatusError


def fill(text):
    request = classification_pb2.ClassificationRequest()
    json_examples.fill(json_values.parse(text.encode()), request)
    return request.input


def test_examples_become_features_by_the_type_of_their_values():
    source = fill(
        '{"examples": [{"i": [1, true], "f": 1.5, "s": ["a", {"b64": "/w=="}], "e": []}]}'
    )
    features = source.example_list.examples[0].features.feature
    assert list(features["i"].int64_list.value) == [1, 1]
    assert list(features["f"].float_list.value) == [1.5]
    assert list(features["s"].bytes_list.value) == [b"a", b"\xff"]
    assert features["e"].WhichOneof("kind") is None


def test_a_context_goes_with_all_examples():
    source = fill('{"context": {"c": 1}, "examples": [{}, {}]}')
    assert len(source.example_list_with_context.examples) == 2
    context = source.example_list_with_context.context.features.feature
    assert list(context["c"].int64_list.value) == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "When method is classify, key 'examples' is expected and was not found"),
        ('{"examples": 1}', "Expecting 'examples' value to be an list/array"),
        ('{"examples": []}', "'examples' value is an empty array"),
        ('{"examples": [1]}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{"a": null}]}', "Feature: a has element with unexpected JSON type: Null"),
        ('{"examples": [{"a": [[1]]}]}', "Feature: a has element with unexpected JSON type: Array"),
        ('{"examples": [{"a": [1, 2.5]}]}', "Unexpected element type in feature: a expecting type"),
        ('{"examples": [{"a": 9223372036854775808}]}', "Only int64 is supported"),
    ],
)
def test_what_is_no_example_is_told(text, message):
    with pytest.raises(StatusError) as caught:
        fill(text)
    assert message in caught.value.message


def test_results_are_lists_of_label_and_score():
    result = SimpleNamespace(
        classifications=[
            SimpleNamespace(classes=[SimpleNamespace(label="a", score=np.float32(0.1))])
        ]
    )
    assert json_examples.classes(result) == b'{"results": [[["a", 0.1]]]}'
    values = SimpleNamespace(regressions=[SimpleNamespace(value=np.float32(0.1))])
    assert json_examples.values(values) == b'{"results": [0.1]}'
