"""Keras's configuration JSON as plain checked data: bounded, keys unique, old forms brought to one form."""

import json
from collections import Counter
from typing import Any

from fastlstm.converters.keras_legacy import modern_layer, without_merge
from fastlstm.errors import ModelFileError, UnsupportedError, one_of

MAX_JSON = 16 << 20
MAX_JSON_DEPTH = 64
MAX_JSON_VALUES = 1 << 18
MODELS = ("Sequential", "Functional", "Model")

Config = dict[str, Any]


def layer_name(layer: Config) -> str:
    """Return the name of a serialized layer."""
    return str(layer["config"].get("name") or layer.get("name") or "")


def children(layer: Config) -> list[Config]:
    """Return the layers of a nested model, or what a wrapper other than Bidirectional wraps."""
    config = layer["config"]
    if layer["class_name"] in MODELS:
        return config.get("layers", [])
    inner = config.get("layer")
    return [inner] if isinstance(inner, dict) and layer["class_name"] != "Bidirectional" else []


def model_config(config: Any, where: str, names: list[str] | None = None) -> Config:
    """Check a configuration and wrap bare lists of layers; `names` are those of the top level, for layers without."""
    if isinstance(config, list):
        config = {"class_name": "Sequential", "config": config}
    config = _normal(config, where)
    if config["class_name"] not in MODELS:
        raise UnsupportedError(f"{where}: a model of class {config['class_name']!r}; expected one of {one_of(MODELS)}")
    layers = config["config"]["layers"]
    for i, layer in enumerate(layers):
        if not layer_name(layer) and names is not None and len(names) == len(layers):
            layer["config"]["name"] = names[i]
    repeated = [name for name, count in Counter(map(layer_name, layers)).items() if count > 1]
    if repeated:
        raise ModelFileError(f"{where}: more than one layer is called {repeated[0]!r}")
    return config


def _normal(layer: Any, where: str) -> Config:
    if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
        raise ModelFileError(f"{where}: its configuration has a layer without class_name: {str(layer)[:80]}")
    found = layer.get("config")
    if isinstance(found, list) and layer["class_name"] in MODELS:
        found = {"layers": found}
    if not isinstance(found, dict):
        raise ModelFileError(f"{where}: {layer['class_name']} has no config but {str(found)[:80]}")
    if layer["class_name"] == "Sequential" and isinstance(found.get("layers"), list):
        merged = without_merge(found.get("name"), found["layers"])
        if merged is not None:
            return _normal(merged, where)
    layer = modern_layer({**layer, "config": found})
    config: Config = dict(layer["config"])
    layers = config.get("layers")
    if layer["class_name"] in MODELS:
        if not isinstance(layers, list):
            raise UnsupportedError(f"{where}: a {layer['class_name']} without a list of layers (a subclassed model?)")
        config["layers"] = [_normal(inner, where) for inner in layers]
    for key in ("layer", "backward_layer"):
        if isinstance(config.get(key), dict):
            config[key] = _normal(config[key], where)
    return {**layer, "config": config}


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON whose size, number of values and depth are bounded, and whose keys are unique."""
    if len(data) > MAX_JSON or sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise ModelFileError(f"{where}: {len(data)} bytes of JSON, over the limit of {MAX_JSON} or of its values")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ModelFileError(f"{where}: a JSON object has one key twice, of {one_of(made)[:200]}")
        return made

    try:
        # json would look for UTF-16 and UTF-32 itself, and import what decodes them
        parsed = json.loads(data.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: not valid JSON ({error})") from error
    level = [parsed]
    for _ in range(MAX_JSON_DEPTH):
        level = [inner for value in level if isinstance(value, dict | list) for inner in _values(value)]
    if level:
        raise ModelFileError(f"{where}: JSON nested deeper than {MAX_JSON_DEPTH}")
    return parsed


def _values(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
