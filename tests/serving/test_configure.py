"""What is written for TensorFlow Serving: parsed by its own messages, and by a YAML parser."""

import re

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving import command, configure, server
from serving.embedded.configs import configs_of
from serving.embedded.manager import Manager
from serving.embedded.options import BatchingOptions
from serving.embedded.protos import BatchingParameters, MonitoringConfig
from tests.serving import served_models

DEFAULTS = {
    "out_dir": "",
    "models": "",
    "models_dir": "/models",
    "image": "tensorflow/serving:1.2.3",
    "service": "birds",
    "replicas": 3,
    "max_batch_size": 24,
    "cpus": 4,
}


@pytest.fixture
def export(tmp_path):
    for name in ("resnet20/1", "resnet20/2", "resnet20/10", "ensemble/7", "ensemble/notes", "none"):
        (tmp_path / "export" / "savedmodel" / name).mkdir(parents=True)
    return tmp_path / "export"


@pytest.fixture
def write(export, monkeypatch, capsys):
    def call(**given):
        values = {**DEFAULTS, "export_dir": str(export), **given}
        monkeypatch.setattr(configure.flags, "FLAGS", type("Flags", (), values))
        assert configure.main() == 0
        return capsys.readouterr().out.split()

    return call


def parsed(path, message):
    return text_format.Parse(path.read_text(), message())


def test_models_are_listed_with_their_versions_and_labels(export, write):
    write()
    message = parsed(
        export / "serving" / "models.config", model_server_config_pb2.ModelServerConfig
    )
    one, two = message.model_config_list.config
    assert (one.name, one.base_path, one.model_platform) == (
        "ensemble",
        "/models/ensemble",
        "tensorflow",
    )
    assert dict(one.version_labels) == {"stable": 7, "canary": 7}
    assert dict(two.version_labels) == {"stable": 2, "canary": 10}
    assert [config.latest for config in configs_of(message)] == [3, 3]


def test_a_version_that_is_exported_later_is_served_and_then_gets_its_label(tmp_path):
    """The server refuses to move a label to a version that is not there, as TF Serving does."""
    base = tmp_path / "m"
    base.mkdir()
    manager = Manager(served_models.Loads(), early_labels=True)

    def export(number):
        served_models.publish(base, number)
        manager.refresh()

    def configured(*versions):
        text = configure.models_config({"m": versions}, str(tmp_path))
        message = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        manager.set_configs(configs_of(message))

    def served():
        answers = []
        for label in ("stable", "canary", ""):
            spec = model_pb2.ModelSpec(name="m", version_label=label)
            if not label:
                spec.ClearField("version_label")
            with manager.lease(spec) as version:
                answers.append(version.number)
        return answers

    served_models.publish(base, 1)
    configured(1)
    assert served() == [1, 1, 1]
    export(2)
    assert served() == [1, 1, 2]
    configured(1, 2)
    assert served() == [1, 2, 2]
    export(3)
    assert served() == [1, 2, 3]  # it takes no label's version away
    configured(1, 2, 3)
    assert served() == [2, 3, 3]


def test_batching_and_monitoring_are_what_the_server_reads(export, write):
    write()
    options = BatchingOptions.of(
        parsed(export / "serving" / "batching.config", BatchingParameters), 1
    )
    assert options == BatchingOptions(24, 0.0, 100, 4, ())
    message = parsed(export / "serving" / "monitoring.config", MonitoringConfig)
    assert message.prometheus_config.enable
    assert message.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_compose_mounts_the_models_and_the_configuration(export, write, tmp_path):
    write(out_dir=str(tmp_path / "deploy"))
    service = yaml.safe_load((tmp_path / "deploy" / "compose.yaml").read_text())["services"][
        "birds"
    ]
    assert service["image"] == "tensorflow/serving:1.2.3"
    assert service["volumes"] == ["../export/savedmodel:/models:ro", ".:/config:ro"]
    assert "--model_config_file=/config/models.config" in service["command"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["init"] is True  # the image's script passes no signal on


@pytest.mark.parametrize(
    ("inside", "out", "path"),
    [
        ("run", "run", "./export/savedmodel"),
        ("run", ".", "./run/export/savedmodel"),
        ("run", "run/export/savedmodel/serving", ".."),
        ('a #1 "b" $c', ".", './a #1 "b" $$c/export/savedmodel'),  # Compose reads $$ as $
    ],
)
def test_compose_finds_the_models_wherever_it_is_written(
    export, write, tmp_path, monkeypatch, inside, out, path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / inside).mkdir()
    export.rename(tmp_path / inside / "export")
    write(export_dir=f"{inside}/export", out_dir=out)
    compose = yaml.safe_load((tmp_path / out / "compose.yaml").read_text())
    assert compose["services"]["birds"]["volumes"][0] == f"{path}:/models:ro"


def test_kubernetes_has_all_it_needs_and_its_parts_fit(export, write):
    write()
    documents = list(yaml.safe_load_all((export / "serving" / "kubernetes.yaml").read_text()))
    config, deployment, service, scaler = documents
    kinds = ["ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler"]
    assert [document["kind"] for document in documents] == kinds
    for name in ("models.config", "batching.config", "monitoring.config"):
        assert config["data"][name].strip() == (export / "serving" / name).read_text().strip()
    pod = deployment["spec"]["template"]
    assert pod["metadata"]["labels"] == service["spec"]["selector"]
    assert pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    (container,) = pod["spec"]["containers"]
    (_, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
    # The image does not end at SIGTERM, so that every stop takes as long as it may.
    assert int(seconds) < pod["spec"]["terminationGracePeriodSeconds"] <= 20
    assert container["image"] == "tensorflow/serving:1.2.3"
    names = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == names
    # The metadata is 404 until the model answers; its status is 200 while it still loads.
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/ensemble/metadata"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v1/models/ensemble"
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert pod["spec"]["volumes"][1]["configMap"]["name"] == config["metadata"]["name"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["spec"]["minReplicas"] == 3
    assert "replicas" not in deployment["spec"]  # applied again, it would undo the scaler's work


def test_flags_in_what_is_written_are_flags_of_the_server(export, write):
    write()
    texts = [
        (export / "serving" / name).read_text() for name in ("compose.yaml", "kubernetes.yaml")
    ]
    used = {name for text in texts for name in re.findall(r"--(\w+)=", text)}
    assert "model_config_file" in used
    assert used <= set(server.FLAGS)


def test_an_export_without_models_is_told(tmp_path, write):
    with pytest.raises(command.MistakeError, match="contains no SavedModels; valid: RUN/export"):
        write(export_dir=str(tmp_path / "no"))


def test_a_name_that_kubernetes_refuses_is_told(write):
    with pytest.raises(
        command.MistakeError, match=r"--service: received '2024-b'; valid: .* with a letter"
    ):
        write(service="2024-b")


def test_names_that_yaml_takes_for_something_else_stay_names(export, write):
    """YAML reads a bare `true` as a truth value, and labels of Kubernetes must be strings."""
    write(service="true")
    texts = [(export / "serving" / f"{n}.yaml").read_text() for n in ("kubernetes", "compose")]
    _, deployment, service, scaler = yaml.safe_load_all(texts[0])
    for each in (deployment, service, scaler):
        assert each["metadata"]["name"] == "true"
    assert service["spec"]["selector"] == {"app": "true"}
    assert scaler["spec"]["scaleTargetRef"]["name"] == "true"
    assert list(yaml.safe_load(texts[1])["services"]) == ["true"]


def test_pods_start_anew_for_settings_and_not_for_versions(export, write):
    def settings(**given):
        write(**given)
        text = (export / "serving" / "kubernetes.yaml").read_text()
        _, deployment, *_ = yaml.safe_load_all(text)
        return deployment["spec"]["template"]["metadata"]["annotations"]["xkd/settings"]

    before = settings()
    assert settings(max_batch_size=64) != before
    (export / "savedmodel" / "resnet20" / "11").mkdir()
    assert settings() == before


def test_models_may_be_chosen(export, write):
    write(models="resnet20")
    text = (export / "serving" / "models.config").read_text()
    message = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert [each.name for each in message.model_config_list.config] == ["resnet20"]
    with pytest.raises(command.MistakeError, match=r"ensemble, resnet20\. Did you mean 'resnet20'"):
        write(models="ensemble,resnet2")


@pytest.mark.parametrize(
    ("name", "value"),
    [("image", ""), ("image", "a b: {c}"), ("models_dir", ""), ("service", "a" * 51)],
)
def test_a_value_that_would_spoil_the_files_is_told(write, name, value):
    with pytest.raises(command.MistakeError, match=f"--{name}: received '{value}'; valid: "):
        write(**{name: value})


def test_a_place_that_cannot_be_written_is_told(export, write):
    (export / "file").write_text("x")
    with pytest.raises(command.MistakeError, match="--out_dir: "):
        write(out_dir=str(export / "file" / "below"))


def test_every_file_is_named_when_written(export, write):
    names = write()
    kinds = ["models.config", "batching.config", "monitoring.config", "compose.yaml"]
    assert names == [str(export / "serving" / name) for name in [*kinds, "kubernetes.yaml"]]
    assert sorted(names) == sorted(str(path) for path in (export / "serving").iterdir())
