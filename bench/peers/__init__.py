"""The engines: ours and those of others that are installed."""

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.peers.base import NO_WAY, Peer, Runner, Runners

# name: (package that must be there, module, class), in the order of the table's columns
PEERS = {
    "fastlstm": ("fastlstm", "bench.peers.ours", "FastLSTM"),
    "onnxruntime": ("onnxruntime", "bench.peers.onnxruntime_peer", "OnnxRuntime"),
    "torch": ("torch", "bench.peers.torch_peer", "Torch"),
    "openvino": ("openvino", "bench.peers.openvino_peer", "OpenVINO"),
    "keras": ("tensorflow", "bench.peers.keras_peer", "Keras"),
}


def installed(threads: int, names: Sequence[str] = tuple(PEERS)) -> dict[str, Peer]:
    """Return the installed engines among `names`, each limited to `threads` threads."""
    found = {}
    for name in names:
        package, module, kind = PEERS[name]
        needed = (package, "keras") if name == "keras" else (package,)
        if all(importlib.util.find_spec(part) for part in needed):
            with _silence():
                found[name] = getattr(importlib.import_module(module), kind)(threads)
    return found


@contextmanager
def _silence() -> Iterator[None]:
    """Keep from the terminal what TensorFlow's libraries write, past Python, while they are loaded."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


__all__ = ["NO_WAY", "PEERS", "Peer", "Runner", "Runners", "installed"]
