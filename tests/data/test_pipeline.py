"""Batches: order, completeness, padding, and use by Keras and by two replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from xkd_keras import data
from xkd_keras.data.sources import Arrays, Split
from xkd_keras.errors import InputError

COUNT = 50
# Image i is the grey level i all over, so that a batch tells which examples it holds.
PIXELS = np.repeat(np.arange(COUNT, dtype=np.uint8), 8 * 8 * 3).reshape(COUNT, 8, 8, 3)


def toy(augment="none", positions=range(COUNT)):
    split = Split(Arrays(PIXELS, np.arange(COUNT) % 3), np.array(positions, np.int64))
    return data.Dataset(
        "toy", ("a", "b", "c"), (8, 8, 3), split, split, split, (0,) * 3, (1,) * 3, augment, 1.0, ""
    )


def identities(batch):
    return batch[0].numpy()[:, 4, 4, 0].astype(int).tolist()


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip", "inception"])
@pytest.mark.parametrize("first", [1, 3])
def test_an_epoch_is_the_same_wherever_the_stream_began(augment, first):
    dataset = toy(augment)
    whole = list(data.train_batches(dataset, batch_size=8, epochs=4, seed=9))
    late = list(data.train_batches(dataset, batch_size=8, epochs=4, first_epoch=first, seed=9))
    assert (len(whole), len(late)) == (24, 6 * (4 - first))
    for expected, received in zip(whole[6 * first :], late, strict=True):
        np.testing.assert_array_equal(expected[0], received[0])
        np.testing.assert_array_equal(expected[1], received[1])


def test_an_epoch_has_no_example_twice_and_drops_others_each_time():
    batches = list(data.train_batches(toy(), batch_size=8, epochs=20))
    dropped, orders = set(), []
    for start in range(0, len(batches), 6):
        epoch = [i for batch in batches[start : start + 6] for i in identities(batch)]
        assert len(epoch) == len(set(epoch)) == 48
        dropped |= set(range(COUNT)) - set(epoch)
        orders.append(tuple(epoch))
    assert len(set(orders)) == 20
    assert len(dropped) > 15


def test_labels_follow_their_images():
    for batch in data.train_batches(toy(positions=range(10, 40)), batch_size=7, epochs=2):
        chosen = identities(batch)
        assert set(chosen) <= set(range(10, 40))
        assert batch[1].numpy().tolist() == [i % 3 for i in chosen]
        assert (batch[0].dtype, batch[1].dtype) == (tf.float32, tf.int32)


def test_views_differ_from_epoch_to_epoch_and_from_seed_to_seed():
    def first(**options):
        batch = next(iter(data.train_batches(toy("crop"), batch_size=50, epochs=2, **options)))
        return batch[0].numpy()[np.argsort(identities(batch))]

    assert not np.array_equal(first(), first(first_epoch=1))
    assert not np.array_equal(first(), first(seed=1))


def test_the_global_seed_has_no_part_in_it():
    batches = []
    for global_seed in (1, 2):
        keras.utils.set_random_seed(global_seed)
        batches.append(next(iter(data.train_batches(toy("crop"), batch_size=20, epochs=1))))
    np.testing.assert_array_equal(batches[0][0], batches[1][0])


@pytest.mark.parametrize(("size", "last"), [(16, 2), (25, 25), (64, 50)])
def test_evaluation_pads_the_last_batch_and_masks_it(size, last):
    dataset = toy()
    stream = data.eval_batches(dataset.test, dataset=dataset, batch_size=size)
    assert int(stream.cardinality()) == -(-COUNT // size)
    batches = list(stream)
    images, labels, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert images.shape == (len(batches) * min(size, COUNT), 8, 8, 3)
    np.testing.assert_array_equal(images[:COUNT], PIXELS)
    np.testing.assert_array_equal(labels[:COUNT], np.arange(COUNT) % 3)
    np.testing.assert_array_equal(weights, [1.0] * COUNT + [0.0] * (len(weights) - COUNT))
    assert not images[COUNT:].any()
    assert not labels[COUNT:].any()
    assert batches[-1][2].numpy().sum() == last


def test_images_come_in_the_order_asked_for():
    dataset = toy(positions=range(5, 45))
    picked = data.images(dataset.test, [3, 0, 39, 3], dataset)
    assert picked.dtype == np.uint8
    np.testing.assert_array_equal(picked, PIXELS[[8, 5, 44, 8]])
    assert data.images(dataset.test, [], dataset).shape == (0, 8, 8, 3)


def test_closing_a_pipeline_waits_for_no_tuning_thread():
    dataset = toy()
    evaluated = data.eval_batches(dataset.test, dataset=dataset, batch_size=8)
    for batches in (data.train_batches(dataset, batch_size=8, epochs=2), evaluated):
        assert batches.options().autotune.enabled is False


@pytest.mark.parametrize(
    ("examples", "replicas", "batch"),
    [
        (1, 1, 1),
        (7, 1, 1),
        (8, 1, 2),
        (200, 1, 32),
        (511, 1, 64),
        (512, 1, 128),
        (512, 3, 126),
        (9, 4, 4),
    ],
)
def test_the_usual_batch_fits_four_times_and_is_shared_by_all_devices(examples, replicas, batch):
    assert data.usual_batch(examples, replicas) == batch


@pytest.mark.parametrize("size", [0, -3, 51])
def test_batch_size_out_of_range(size):
    with pytest.raises(
        InputError, match=rf"^batch_size: {size} .* valid: 1 to 50; for so few images, 8"
    ):
        data.train_batches(toy(), batch_size=size, epochs=1)
    assert data.steps_per_epoch(toy(), 16) == 3


def test_keras_trains_and_evaluates_on_it():
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    exact = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="exact")
    model.compile("sgd", loss, weighted_metrics=[exact])
    stream = data.train_batches(toy(), batch_size=16, epochs=2)
    history = model.fit(stream, epochs=2, steps_per_epoch=3, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 2
    batches = data.eval_batches(toy().test, dataset=toy(), batch_size=16)
    received = model.evaluate(batches, return_dict=True, verbose=0)["exact"]
    logits = model.predict(PIXELS.astype(np.float32), verbose=0).astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    true = shifted[np.arange(COUNT), np.arange(COUNT) % 3]
    expected = np.mean(np.log(np.exp(shifted).sum(1)) - true)
    # Keras' metric clips probabilities at 1e-7; raw pixels make for confident mistakes.
    assert received == pytest.approx(expected, rel=1e-4)


def test_two_replicas_share_each_batch(two_cpus):
    stream, count = data.train_batches(toy("crop"), batch_size=8, epochs=2), 0
    for whole, shared in zip(stream, two_cpus.experimental_distribute_dataset(stream), strict=True):
        halves = [part.numpy() for part in shared[0].values]
        assert [len(half) for half in halves] == [4, 4]
        np.testing.assert_array_equal(np.concatenate(halves), whole[0])
        count += 1
    assert count == 12


@pytest.mark.parametrize("augment", ["none", "inception"])
@pytest.mark.parametrize("count", [2, 4])
def test_workers_shares_are_together_what_one_process_would_have(augment, count):
    dataset, streams = toy(augment), []
    options = {"batch_size": 8, "epochs": 3, "first_epoch": 1, "seed": 4}
    whole = list(data.train_batches(dataset, **options))
    for i in range(count):
        streams.append(list(data.train_batches(dataset, **options, share=(i, count))))
    assert {len(stream) for stream in streams} == {len(whole)}
    for batch, *parts in zip(whole, *streams, strict=True):
        for expected, received in zip(batch, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(received), expected)


@pytest.mark.parametrize("rows", [8, 64])
def test_workers_evaluate_each_image_once(rows):
    streams = [
        list(data.eval_batches(toy().test, dataset=toy(), batch_size=rows, share=(i, 4)))
        for i in range(4)
    ]
    whole = list(data.eval_batches(toy().test, dataset=toy(), batch_size=rows))
    for batch, *parts in zip(whole, *streams, strict=True):
        for expected, received in zip(batch, zip(*parts, strict=True), strict=True):
            joined = np.concatenate(received)
            np.testing.assert_array_equal(joined[: len(expected)], expected)
            assert not joined[len(expected) :].any()  # one worker alone needs no padding


def test_a_batch_that_workers_cannot_share_is_refused():
    with pytest.raises(InputError, match=r"^batch_size: received 8; valid: a multiple of the 3 "):
        data.train_batches(toy(), batch_size=8, epochs=1, share=(0, 3))


def test_an_epoch_goes_on_within_from_the_batch_that_is_next():
    options = {"batch_size": 8, "epochs": 3, "seed": 4}
    whole = list(data.train_batches(toy("crop"), **options))
    late = data.train_batches(toy("crop"), **options, first_epoch=1, first_batch=4)
    assert late.cardinality() == 8  # two of the second epoch's six, and the third epoch
    for expected, received in zip(whole[10:], late, strict=True):
        np.testing.assert_array_equal(expected[0], received[0])


@pytest.mark.parametrize("gib", [2.0, 0.0])
def test_a_folder_becomes_images_that_are_not_square(tmp_path, gib):
    """Kept in memory, resized, and read again from files each epoch: the same pixels."""
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(10):
            shades = np.linspace(0, 25 * i + 5, 50 * 30).reshape(50, 30, 1)
            image = Image.fromarray(np.repeat(shades, 3, 2).astype(np.uint8))
            image.save(tmp_path / label / f"{i}.png")
    dataset = data.load(f"folder:{tmp_path}", image_size="16x24", augment="crop", cache_gib=gib)
    assert dataset.image_shape == (16, 24, 3)
    batch = next(iter(data.train_batches(dataset, batch_size=4, epochs=1)))
    assert batch[0].shape == (4, 16, 24, 3)
    (images, _, _), *_ = data.eval_batches(dataset.test, dataset=dataset, batch_size=4)
    files = sorted(tmp_path.rglob("*.png"))
    tests = dataset.test.positions
    for image, position in zip(images.numpy(), tests, strict=True):
        # Of 50 x 30 pixels, scaled to 40 x 24, rows 12 to 27.
        whole = Image.open(files[position]).resize((24, 40), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(image, np.asarray(whole)[12:28], atol=1.01)
    assert data.images(dataset.test, [0], dataset).shape == (1, 16, 24, 3)
