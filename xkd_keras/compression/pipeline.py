"""From a finished run to one compressed peer in its manifest."""

from collections.abc import Iterator
from pathlib import Path

from xkd_keras.compression import passes, tuning, twin
from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.flags import fields
from xkd_keras.runs import directory as rundir
from xkd_keras.ship import artifacts, lite, manifest, staging
from xkd_keras.ship.tested import Tested, full_float32

LOSS = 0.05  # of top-1, beyond which a file is warned of


def compress(
    run_dir: Path,
    peer: str,
    recipe: str,
    *,
    epochs: int = 5,
    learning_rate: float = 0.0,
    distill_weight: float = 1.0,
    temperature: float = 3.0,
    sparsity: float = 0.5,
    clusters: int = 16,
    batch_size: int = 0,
    seed: int = 0,
    precision: float | None = None,
) -> dict:
    """Compress a trained peer, taught by its run's ensemble, and add its files to the manifest.

    Args:
        run_dir: Of a finished run.
        peer: One of its peers.
        recipe: A key of `passes.CHAINS`.
        epochs: Of fine-tuning after each pass.
        learning_rate: Of fine-tuning, which is by SGD; 0: a tenth of the peer's own, or where that
            is another optimizer's, of what suits the network with SGD.
        distill_weight: lambda, the strength of the distillation term; 0: labels alone.
        temperature: Softens teacher and peer.
        sparsity: Share of zeros that pruning ends with.
        clusters: Different values in a kernel that clustering ends with.
        batch_size: 0: as the run had.
        seed: Of the order and augmentation of images.
        precision: As of `artifacts.export`.

    Returns:
        What RUN/export/manifest.json holds.

    Raises:
        InputError: The run is not finished, the peer is not in it, or it cannot take the recipe.
            What was there before is then as it was.
    """
    if recipe not in passes.CHAINS:
        raise InputError.unknown("recipe", recipe, passes.CHAINS)
    run = rundir.load_run(run_dir)
    before = manifest.read(run_dir)  # fails on a damaged one before any work
    precision = manifest.kept_precision(precision, before)
    if peer not in run.models:
        raise InputError.unknown("peer", peer, run.models)
    tune = tuning.Tuner(
        run,
        epochs=epochs,
        learning_rate=learning_rate or _usual_rate(run.config, peer) / 10,
        distill_weight=distill_weight,
        temperature=temperature,
        batch_size=batch_size or run.config.batch_size,
        seed=seed,
    )
    network = twin.twin(run.models[peer])
    passes.check(recipe, network)
    with staging.opened(run_dir) as stage:
        with full_float32():
            tested = Tested(run, precision)  # before learning: it may refuse the run
        model = passes.run(recipe, network, tune, sparsity, clusters)
        with full_float32():
            fresh = []
            for name, content in _files(tested, recipe, model):
                entry = {**artifacts.tflite_entry(peer, name), "taught": distill_weight > 0}
                fresh.append(artifacts.finished_tflite(tested, stage, entry, content))
                _warn(fresh[-1], tested)
            return artifacts.publish(tested, stage, fresh, [])


def _files(tested: Tested, recipe: str, model) -> Iterator[tuple[str, bytes]]:
    """Give the TFLite files of a model that a recipe has made, by the names of their variants."""
    if passes.CHAINS[recipe][-1] == "quantize":  # the model itself has its ranges
        names, images = {recipe: "int8"}, None
    else:
        names = {f"{recipe}-{variant}": variant for variant in ("float32", "int8")}
        images = tested.representative()
    temperature = tested.temperature_of(lambda images: model(images, training=False).numpy())
    with lite.converters(model) as convert:
        for name, variant in names.items():
            try:
                content = convert(variant, images)
            except InputError as error:
                raise passes.blamed(model.layers, f"fails: {error}", str(error)) from None
            yield name, lite.tempered(content, temperature)


def _usual_rate(config: configs.Config, peer: str) -> float:
    """Return a peer's learning rate with SGD."""
    (own,) = [each for each in config.peers() if each.name == peer]
    if own.learning["optimizer"] == "sgd":
        return own.learning["learning_rate"]
    return fields.learning(own.builder, {"optimizer": "sgd"}, own.start)["learning_rate"]


def _warn(entry: dict, tested: Tested) -> None:
    """Say so where a file is much worse than the network that it was made of."""
    own = tested.top1(entry["network"])
    if own - entry["top1"] > LOSS:
        print(
            f"warning: {entry['file']} reaches {100 * entry['top1']:.2f} % top-1, but the network"
            f" {100 * own:.2f} %; try another --learning_rate, more --epochs, a milder recipe.",
            flush=True,
        )
