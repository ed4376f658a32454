"""The commands around training, on real files: mine, merge, soup."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig
from sentence_transformers import SentenceTransformer

from lco_embedding import LCOEmbedding
from lco_embedding.cli import main
from lco_embedding.data.json_lines import JsonLines

TEXTS = ["a red circle", "a low flute", "seven"]


@pytest.fixture(scope="module")
def adapters(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of one base, as a training leaves them."""
    folders = []
    for number, alpha in enumerate((4, 12)):
        model = LCOEmbedding(thinker, device="cpu")
        targets = model.omni.backbone.lora_targets
        model.add_adapter(LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False))
        folders.append(tmp_path_factory.mktemp("adapters") / str(number))
        model.save_pretrained(folders[-1], create_model_card=False)
    return folders


def test_mine_writes_triplets_of_files(
    samples: Path, tmp_path: Path, thinker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (samples / "images").iterdir():
        shutil.copy(path, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    pairs, corpus = tmp_path / "pairs.jsonl", tmp_path / "corpus.jsonl"
    rows = [{"anchor": TEXTS[n], "positive": {"image_path": name}} for n, name in enumerate(names[:3])]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    corpus.write_text("\n".join(json.dumps({"image_path": name}) for name in names))
    output = tmp_path / "out" / "triplets.jsonl"
    command = ["mine", str(pairs), str(output), "--corpus", str(corpus), "--model", str(thinker), "--device", "cpu"]
    assert main([*command, "--relative-margin", "none", "--num-negatives", "2"]) == 0
    assert "6 rows written" in capsys.readouterr().out
    mined = JsonLines(output)
    for index in range(len(mined)):
        row = mined[index]
        assert Path(row["negative"]["image_path"]).is_file()
        assert Path(row["negative"]["image_path"]).name != Path(row["positive"]["image_path"]).name
        assert Path(row["positive"]["image_path"]).name == names[index // 2]
    assert main(command) == 2
    assert "is there" in capsys.readouterr().err


def test_merge_writes_what_stock_loads(
    adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "merged"
    assert main(["merge", str(adapters[0]), str(output)]) == 0
    expected = LCOEmbedding(adapters[0], device="cpu").encode(TEXTS)
    np.testing.assert_allclose(SentenceTransformer(str(output), device="cpu").encode(TEXTS), expected, atol=1e-5)
    assert main(["merge", str(adapters[0]), str(output)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["merge", str(output), str(tmp_path / "again")]) == 2
    assert "no adapter to merge" in capsys.readouterr().err


def test_soup_averages_by_weight(adapters: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "soup"
    assert main(["soup", *map(str, adapters), "--output", str(output), "--weights", "3", "1"]) == 0
    record = json.loads((output / "training_record.json").read_text())
    assert [source["share"] for source in record["sources"]] == [0.75, 0.25]
    config = json.loads((output / "adapter_config.json").read_text())
    assert config["r"] == 8
    first, second, made = (LCOEmbedding(folder, device="cpu").encode(TEXTS) for folder in (*adapters, output))
    assert min(np.abs(made - first).max(), np.abs(made - second).max()) > 1e-3
    assert main(["soup", *map(str, adapters), "--output", str(tmp_path / "x"), "--weights", "1"]) == 2
    assert "weights" in capsys.readouterr().err
