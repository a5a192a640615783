"""What a ModelServerConfig or a flag asks for: models, their base paths, policies and labels."""

import re
from pathlib import Path

from serving.embedded.errors import ConfigError
from serving.embedded.versions import ModelConfig


def configs_of(message) -> list[ModelConfig]:
    """Return what a ModelServerConfig asks for; raises ConfigError."""
    if message.WhichOneof("config") != "model_config_list":
        raise ConfigError("Only ModelConfigList is currently supported")
    configs = []
    for entry in message.model_config_list.config:
        if not entry.name:
            raise ConfigError("a model in the config list has no name")
        if "\0" in entry.base_path:
            raise ConfigError(f"model {entry.name}: its base_path contains a zero byte")
        if entry.name in {config.name for config in configs}:
            raise ConfigError(f"Illegal to list model {entry.name} multiple times in config list")
        if not local(entry.base_path, of=f"model {entry.name}: base_path: ").is_absolute():
            raise ConfigError(
                f"Expected model {entry.name} to have an absolute path or URI; got"
                f" base_path()={entry.base_path}"
            )
        configs.append(_config_of(entry))
    return configs


def local(path: str, argument: str = "", of: str = "") -> Path:
    """Return a base path; raises ConfigError, about a flag or `of` an entry, for gs:// and such."""
    if re.match(r"[a-z][a-z0-9+.-]*://", path, re.IGNORECASE):
        raise ConfigError(f"{of}received '{path}'; valid: local directories only.", argument)
    return Path(path)


def _config_of(entry) -> ModelConfig:
    policy = entry.model_version_policy
    latest, specific = 1, ()
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        latest = 0
    elif kind == "specific":
        latest, specific = 0, tuple(policy.specific.versions)
        if not specific:
            raise ConfigError(f"model {entry.name}: the policy `specific` names no versions")
    elif kind == "latest":
        latest = policy.latest.num_versions or 1
    labels = dict(entry.version_labels)
    return ModelConfig(entry.name, Path(entry.base_path), latest, specific, labels)
