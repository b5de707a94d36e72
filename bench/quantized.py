"""A network with the int8 weights that onnxruntime's own tool makes: its DynamicQuantizeLSTM."""

import logging
import tempfile
from pathlib import Path

from bench.networks import Network
from bench.onnx_files import sequence_file


def int8_file(network: Network, per_channel: bool) -> bytes:
    """Return the file of whole sequences with int8 weights, one scale for all of a matrix or one for each column."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it warns that it was not told to preprocess
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(sequence_file(network))
        quantize_dynamic(
            source, target, op_types_to_quantize=["LSTM"], per_channel=per_channel, weight_type=QuantType.QInt8
        )
        return target.read_bytes()
