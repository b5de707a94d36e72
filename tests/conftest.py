"""What every test sees: hypothesis profiles, where the real cases are, and Keras."""

import os
import re
import sys
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

CASES = Path(os.environ.get("FASTLSTM_CASES", Path(__file__).parents[2] / "shared" / "cases"))


def fenced(page: str, kind: str) -> list[str]:
    """Return the code blocks of a kind in a page of docs/."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.S | re.M)


@pytest.fixture(scope="session")
def demo_models() -> Path:
    """The folder of the bundled models."""
    import fastlstm.demo

    return Path(fastlstm.demo.__file__).parent / "models"


@pytest.fixture(scope="session")
def keras():
    """Keras 3 on TensorFlow, where both are installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras")


@pytest.fixture(autouse=True)
def floats_of_keras():
    """Leave Keras the dtype that it begins with: tests that ask for another share a process with tests that do not."""
    yield
    loaded = sys.modules.get("keras")
    if hasattr(loaded, "config"):
        set_dtype(loaded, "float32")


def set_dtype(keras, dtype: str) -> None:
    """Let Keras 3 compute in this dtype: its policy is made of the first one that is asked for, and stays."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
