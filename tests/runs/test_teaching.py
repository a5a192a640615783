"""What a teacher was worth, against the same numbers from the networks' own answers."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax

from tests import uneven
from tests.small_runs import PLAIN, configuration
from xkd_keras.flags import config as configs
from xkd_keras.runs import building, history, teaching, training
from xkd_keras.runs import directory as rundir


@pytest.fixture(scope="module")
def taught(tmp_path_factory, data_dir):
    """A finished run whose teacher is gated: its metrics, history and validation answers."""
    run_dir = tmp_path_factory.mktemp("taught") / "run"
    config = configuration(run_dir, data_dir, teacher="gated", peer=(PLAIN, PLAIN + ",name=b"))
    metrics = training.run(config)
    split = rundir.load_dataset(config).validation
    images = split.source._images.numpy()[split.positions].astype("float32")
    labels = split.source.labels[split.positions]
    models = [keras.models.load_model(run_dir / f"peers/{name}.keras") for name in ("plain", "b")]
    logits = np.stack([model.predict(images, verbose=0) for model in models])
    return metrics, history.read(run_dir), labels, logits


def test_of_two_peers_each_is_the_others_teacher_where_it_knows_more(taught):
    metrics, _, labels, logits = taught
    losses = -log_softmax(logits, -1)[:, np.arange(len(labels)), labels]
    right = logits.argmax(-1) == labels
    same = np.mean(logits[0].argmax(-1) == logits[1].argmax(-1))
    for own, other, name in ((0, 1, "plain"), (1, 0, "b")):
        worth = metrics["teaching"][name]
        assert worth["own_top1"] == pytest.approx(right[own].mean())
        assert worth["top1"] == pytest.approx(right[other].mean())
        assert worth["cross_entropy"] == pytest.approx(losses[other].mean(), rel=1e-4)
        assert worth["agreement"] == pytest.approx(same)
        assert worth["teachers"] == [("plain", "b")[other]]
        assert worth["features"]
        assert worth["gate"] == pytest.approx(np.mean(losses[other] < losses[own]), abs=0.01)


def test_a_network_that_nobody_teaches_has_no_teacher_and_one_of_the_ensemble_has_all():
    config = configs.Config(peer=(PLAIN + ",distill=0", PLAIN + ",name=b"), method="mcod")
    data = uneven.uneven()
    found = teaching.worth(building.build_cohort(config, data, steps=4), data, batch_size=50)
    assert list(found) == ["b"]
    assert found["b"]["teachers"] == ["plain", "b"]
    assert (found["b"]["heard"], found["b"]["features"]) == (1.0, False)


def test_a_network_of_weight_0_is_nobodys_teacher_and_one_whose_others_are_has_none():
    config = configs.Config(peer=(PLAIN, PLAIN + ",name=b,weight=0"))
    data = uneven.uneven()
    found = teaching.worth(building.build_cohort(config, data, steps=4), data, batch_size=50)
    assert list(found) == ["b"]
    assert (found["b"]["teachers"], found["b"]["features"]) == (["plain"], True)


@pytest.mark.parametrize(
    ("teacher", "peers", "told"),
    [("swapped", 2, True), ("gated", 2, False), ("gated", 3, True), ("pairwise", 2, False)],
)
def test_what_teachers_are_made_with_the_labels_is_recorded(teacher, peers, told):
    config = configs.Config(peer=(PLAIN,) * peers, method="ensemble", teacher=teacher)
    data = uneven.uneven()
    found = teaching.worth(building.build_cohort(config, data, steps=4), data, batch_size=50)
    assert [values["told"] for values in found.values()] == [told] * peers


def test_a_run_records_how_far_each_network_hears_its_teachers(taught):
    metrics, rows, *_ = taught
    for name, other in (("plain", "b"), ("b", "plain")):
        heard = [row[f"{name}_heard"] for row in rows]
        assert heard[-1] == pytest.approx(metrics["teaching"][name]["heard"])
        # It hears the other one by the running mean of its cross-entropy, which follows an epoch's.
        losses = [row[f"{other}_cross_entropy"] for row in rows]
        np.testing.assert_allclose(heard, np.exp(np.negative(losses)), rtol=0.3)
