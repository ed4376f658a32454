"""A soup is the average of what its sources compute with: of weights, or of the updates of adapters."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import save_torch_state_dict
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from lco_embedding import LCOEmbedding
from lco_embedding.modules.adapters import merge_lora
from lco_embedding.training.contrastive import add_projection
from lco_embedding.training.lora import lora_config
from lco_embedding.training.model_soup import soup

Edit = Callable[[str, Tensor], Tensor]
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"


def noisy(seed: int) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    return lambda _, tensor: tensor + 0.05 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)


def copy(folder: Path, target: Path, edit: Edit | None = None, file: str = WEIGHTS, **settings: Any) -> Path:
    """Copy a checkpoint with other weights, and other settings in its configuration."""
    shutil.copytree(folder, target)
    if edit:
        tensors = load_file(target / file)
        save_file({name: edit(name, tensor) for name, tensor in tensors.items()}, target / file, {"format": "pt"})
    if settings:
        path = target / ("adapter_config.json" if file == ADAPTER else "config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return target


def shard(folder: Path, target: Path, size: str) -> Path:
    """Copy a checkpoint whose weights are split into shards of a size."""
    shutil.copytree(folder, target)
    (target / WEIGHTS).unlink()
    save_torch_state_dict(load_file(folder / WEIGHTS), target, max_shard_size=size)
    return target


def all_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def first(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding checkpoint with a projection, whose weights lie in a folder of their own."""
    model = LCOEmbedding(thinker, device="cpu")
    torch.manual_seed(0)
    add_projection(model, 24)
    folder = tmp_path_factory.mktemp("sources") / "first"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def second(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy(first, tmp_path_factory.mktemp("sources") / "second", noisy(1))
    (dense,) = folder.glob("*_Dense")
    save_file({name: -3 * tensor for name, tensor in load_file(dense / WEIGHTS).items()}, dense / WEIGHTS)
    return folder


# --- whole models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [0.1, 0.7, 3]])
def test_a_soup_of_a_model_with_itself_is_the_model(first: Path, tmp_path: Path, weights: list[float] | None):
    made = soup([first, str(first), first], tmp_path / "soup", weights)
    assert_same(all_tensors(made), all_tensors(first))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("weights", "share"), [(None, 0.5), ([1, 3], 0.25)])
def test_a_soup_is_the_weighted_average(first: Path, second: Path, tmp_path: Path, weights: Any, share: float):
    made = soup([first, second], tmp_path / "new" / "soup", weights)
    before = all_tensors(first), all_tensors(second)
    after = all_tensors(made)
    assert after.keys() == before[0].keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, share * before[0][name] + (1 - share) * before[1][name], msg=name)
    (dense,) = (folder.name for folder in first.glob("*_Dense"))
    projections = load_file(first / dense / WEIGHTS), load_file(made / dense / WEIGHTS)
    for name, tensor in projections[0].items():
        torch.testing.assert_close(projections[1][name], (share - 3 * (1 - share)) * tensor)


def test_a_soup_loads_anywhere_and_embeds_as_the_average_does(first: Path, second: Path, tmp_path: Path):
    made = soup([first, second], tmp_path / "soup")
    models = [LCOEmbedding(folder, device="cpu") for folder in (first, second)]
    averages = {name: (tensor + models[1].state_dict()[name]) / 2 for name, tensor in models[0].state_dict().items()}
    models[0].load_state_dict(averages)
    texts = ["a red circle", "a low flute"]
    expected = models[0].encode(texts)
    for kind in (LCOEmbedding, SentenceTransformer):
        np.testing.assert_allclose(kind(str(made), device="cpu").encode(texts), expected, atol=1e-5)


def test_other_files_are_those_of_the_first(first: Path, second: Path, tmp_path: Path):
    source = copy(first, tmp_path / "source")
    (source / "chat_template.jinja").write_text("mine")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "other.jinja").write_text("other")
    (source / "checkpoint-5").mkdir()
    (source / "checkpoint-5" / WEIGHTS).write_bytes(b"")
    (source / "training_args.bin").write_bytes(b"pickle")
    (source / "README.md").write_text("about the first")
    (source / "training_record.json").write_text('{"stage": "contrastive"}')
    made = soup([source, second], tmp_path / "soup", [1, 4])
    names = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    expected = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()}
    assert names == expected | {"README.md", "training_record.json", "additional_chat_templates/other.jinja"}
    assert (made / "chat_template.jinja").read_text() == "mine"
    card = (made / "README.md").read_text()
    assert "about the first" not in card
    assert "source" in card
    assert "second" in card
    assert json.loads((made / "training_record.json").read_text()) == {
        "stage": "soup",
        "sources": [
            {"name": "source", "share": 0.2, "before": {"stage": "contrastive"}},
            {"name": "second", "share": 0.8, "before": None},
        ],
    }


def test_the_data_type_and_the_shards_are_those_of_the_first(first: Path, second: Path, tmp_path: Path):
    halved = copy(first, tmp_path / "halved", lambda _, tensor: tensor.to(torch.bfloat16), dtype="bfloat16")
    source = shard(halved, tmp_path / "sharded", "100KB")
    made = soup([source, second], tmp_path / "soup")
    files = sorted(path.name for path in source.glob("*.safetensors"))
    assert len(files) > 3
    assert sorted(path.name for path in made.glob("*.safetensors")) == files
    for file in files:
        with safe_open(source / file, "pt") as before, safe_open(made / file, "pt") as after:
            assert sorted(before.keys()) == sorted(after.keys())
            assert before.metadata() == after.metadata()
    index = "model.safetensors.index.json"
    assert (made / index).read_text() == (source / index).read_text()
    others = all_tensors(second)
    after = all_tensors(made)
    for name, tensor in all_tensors(source).items():
        assert after[name].dtype == torch.bfloat16
        torch.testing.assert_close(after[name].float(), (tensor.float() + others[name]) / 2, rtol=2**-8, atol=1e-6)
    assert LCOEmbedding(made, device="cpu").encode("x").shape == (24,)


def test_tensors_of_whole_numbers_are_kept_if_equal(first: Path, tmp_path: Path):
    def count(number: int) -> Path:
        folder = copy(first, tmp_path / f"{number}")
        save_file({**load_file(folder / WEIGHTS), "steps": torch.tensor([number])}, folder / WEIGHTS)
        return folder

    made = soup([count(1), copy(tmp_path / "1", tmp_path / "again")], tmp_path / "soup")
    assert all_tensors(made)["steps"].tolist() == [1]
    with pytest.raises(ValueError, match="tensor steps holds whole numbers"):
        soup([tmp_path / "1", count(2)], tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_hub_id_is_read_from_the_cache(first: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repository = tmp_path / "hub" / "models--someone--second"
    shutil.copytree(second, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    made = soup([first, "someone/second"], tmp_path / "soup")
    assert_same(all_tensors(made), all_tensors(soup([first, second], tmp_path / "same")))
    sources = json.loads((made / "training_record.json").read_text())["sources"]
    assert [source["name"] for source in sources] == ["first", "someone/second"]


MEASURED = """
import sys
from pathlib import Path
from lco_embedding.training.model_soup import soup

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

small, big, folder = sys.argv[1:]
soup([small] * 3, folder + "/small_soup")
before = peak()
soup([big] * 3, folder + "/soup")
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_is_that_of_a_shard(first: Path, tmp_path: Path):
    big = copy(first, tmp_path / "big")
    tensors = load_file(big / WEIGHTS)
    tensors |= {f"extra.{number}": torch.full((512, 2560), float(number)) for number in range(32)}
    (big / WEIGHTS).unlink()
    save_torch_state_dict(tensors, big, max_shard_size="10MB")
    size = sum(path.stat().st_size for path in big.glob("*.safetensors")) / 2**20
    assert len(list(big.glob("*.safetensors"))) > 16
    assert size > 160
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(first), str(big), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    # A shard of 10 MB is made while those of three sources are mapped; three whole sources are 480 MB.
    assert float(done.stdout) < 100
    assert all_tensors(tmp_path / "soup")["extra.7"].unique().tolist() == [7.0]


# --- adapters ---------------------------------------------------------------------------------------------------------


def make_adapter(base: Path, folder: Path, seed: int, r: int = 4, alpha: float = 8, **settings: Any) -> Path:
    """Write an adapter with random weights, which unlike those of a new one do something."""
    model = LCOEmbedding(base, device="cpu")
    config = lora_config(model.omni.backbone, r, alpha, 0.0)
    for key, value in settings.items():
        setattr(config, key, value)
    model.add_adapter(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def merged(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a base with an adapter merged into it by PEFT."""
    model = LCOEmbedding(folder, device="cpu")
    assert merge_lora(model.omni.model)
    return model.state_dict()


def assert_averages_updates(made: Path, sources: list[Path], base: Path, shares: list[float]) -> None:
    """Compare the weights, and tell that the updates are not all zero."""
    start = LCOEmbedding(base, device="cpu").state_dict()
    after = merged(made)
    befores = [merged(source) for source in sources]
    assert after.keys() == start.keys()
    changed = 0
    for name, tensor in start.items():
        updates = [before[name] - tensor for before in befores]
        expected = sum(share * update for share, update in zip(shares, updates, strict=True))
        torch.testing.assert_close(after[name] - tensor, expected, atol=1e-5, rtol=1e-5, msg=name)
        changed += bool(updates[0].abs().max() > 0.01)
    assert changed >= 7


@pytest.mark.parametrize("weights", [None, [1, 3]])
def test_the_update_of_an_adapter_soup_is_the_average_of_updates(thinker: Path, tmp_path: Path, weights: Any):
    sources = [make_adapter(thinker, tmp_path / f"{seed}", seed) for seed in range(2)]
    made = soup(sources, tmp_path / "soup", weights)
    assert json.loads((made / "adapter_config.json").read_text())["r"] == 8
    assert_averages_updates(made, sources, thinker, [0.25, 0.75] if weights else [0.5, 0.5])
    texts = ["a red circle", "a low flute"]
    mine, stock = (kind(str(made), device="cpu").encode(texts) for kind in (LCOEmbedding, SentenceTransformer))
    np.testing.assert_allclose(mine, stock, atol=1e-5)


def test_ranks_and_scales_may_differ(thinker: Path, tmp_path: Path):
    sources = [
        make_adapter(thinker, tmp_path / "plain", 1, r=4, alpha=8),
        make_adapter(thinker, tmp_path / "rslora", 2, r=9, alpha=6, use_rslora=True),
        make_adapter(
            thinker, tmp_path / "pattern", 3, r=2, rank_pattern={"q_proj": 5}, alpha_pattern={"layers.0.mlp.*": 1.5}
        ),
    ]
    made = soup(sources, tmp_path / "soup", [1, 1, 2])
    config = json.loads((made / "adapter_config.json").read_text())
    assert {config["rank_pattern"][name] for name in config["rank_pattern"] if "q_proj" in name} == {18}
    assert {config["rank_pattern"][name] for name in config["rank_pattern"] if "k_proj" in name} == {15}
    assert not config["use_rslora"]
    assert_averages_updates(made, sources, thinker, [0.25, 0.25, 0.5])


def test_uneven_adapters_of_the_generation_class_load_as_in_peft(thinker: Path, tmp_path: Path):
    sources = []
    for number, rank in enumerate((3, 7)):
        whole = LCOEmbedding(thinker, device="cpu").omni.generation_model()
        layer = "model.language_model.layers.0.self_attn"
        pattern = {f"{layer}.{name}_proj": rank + shift for shift, name in enumerate("qkv")}
        targets = r".*language_model.*(_proj)"
        options = {"rank_pattern": pattern, "alpha_pattern": {f"{layer}.q_proj": 40}, "init_lora_weights": False}
        torch.manual_seed(number)
        get_peft_model(whole, LoraConfig(r=2, target_modules=targets, **options)).save_pretrained(
            tmp_path / f"{number}"
        )
        sources.append(tmp_path / f"{number}")
    made = soup(sources, tmp_path / "soup", [1, 3])
    assert_averages_updates(made, sources, thinker, [0.25, 0.75])
    by_peft = LCOEmbedding(thinker, device="cpu")
    PeftModel.from_pretrained(by_peft.omni.generation_model(), made)
    texts = ["a red circle", "a low flute"]
    np.testing.assert_array_equal(LCOEmbedding(made, device="cpu").encode(texts), by_peft.encode(texts))


def test_an_adapter_with_itself_does_the_same(thinker: Path, tmp_path: Path):
    source = make_adapter(thinker, tmp_path / "one", 1)
    made = soup([source, source, source], tmp_path / "soup")
    assert_averages_updates(made, [source], thinker, [1.0])


def test_what_else_an_adapter_holds_is_averaged(thinker: Path, tmp_path: Path):
    sources = [make_adapter(thinker, tmp_path / f"{seed}", seed, modules_to_save=["norm"]) for seed in range(2)]
    made = soup(sources, tmp_path / "soup")
    norms = [name for name in load_file(made / ADAPTER) if name.endswith("norm.weight") and "lora" not in name]
    assert norms
    for name in norms:
        tensors = [load_file(source / ADAPTER)[name] for source in sources]
        torch.testing.assert_close(load_file(made / ADAPTER)[name], (tensors[0] + tensors[1]) / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_model_name_or_path": "other"}, "base_model_name_or_path"),
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"revision": "0123"}, "revision"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ],
)
def test_adapters_of_other_bases_and_targets_are_refused(
    thinker: Path, tmp_path: Path, settings: dict[str, Any], message: str
):
    source = make_adapter(thinker, tmp_path / "one", 1)
    other = copy(source, tmp_path / "other", file=ADAPTER, **settings)
    with pytest.raises(ValueError, match=f"same base and targets: .* differ in {message}$"):
        soup([source, other], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "only LoRA adapters can be averaged, got IA3"),
        ({"use_dora": True}, "adapters with use_dora can't be averaged"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changes the base"),
        ({"base_model_name_or_path": None}, "does not name the base"),
    ],
)
def test_what_is_no_plain_lora_is_refused(thinker: Path, tmp_path: Path, settings: dict[str, Any], message: str):
    source = make_adapter(thinker, tmp_path / "one", 1)
    odd = copy(source, tmp_path / "odd", file=ADAPTER, **settings)
    with pytest.raises(ValueError, match=message):
        soup([odd, odd], tmp_path / "soup")


def test_the_order_of_target_modules_does_not_matter(thinker: Path, tmp_path: Path):
    source = make_adapter(thinker, tmp_path / "one", 1)
    forth = copy(source, tmp_path / "forth", file=ADAPTER, target_modules=["q_proj", "k_proj"])
    back = copy(source, tmp_path / "back", file=ADAPTER, target_modules=["k_proj", "q_proj"])
    assert soup([forth, back], tmp_path / "soup").is_dir()


def test_an_adapter_and_a_whole_model_are_not_mixed(thinker: Path, first: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="one is an adapter, one a whole model"):
        soup([first, make_adapter(thinker, tmp_path / "one", 1)], tmp_path / "soup")


def test_an_adapter_without_lora_is_refused(first: Path, tmp_path: Path):
    stale = copy(first, tmp_path / "stale")
    (stale / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    with pytest.raises(ValueError, match=r"has an adapter_config\.json, but no LoRA"):
        soup([stale, stale], tmp_path / "soup")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [0, 0], [1, math.nan], [1, math.inf]])
def test_weights_must_fit(first: Path, second: Path, tmp_path: Path, weights: list[float]):
    with pytest.raises(ValueError, match="positive, finite weight for each of 2 sources"):
        soup([first, second], tmp_path / "soup", weights)


@pytest.mark.parametrize("sources", [[], "lone"])
def test_sources_must_be_a_list(tmp_path: Path, sources: Any):
    with pytest.raises(ValueError, match="sources must be a list"):
        soup(sources, tmp_path / "soup")


def test_an_output_that_is_there_is_not_overwritten(first: Path, second: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert soup([first, second], tmp_path / "empty") == tmp_path / "empty"
    with pytest.raises(FileExistsError, match="empty is not empty"):
        soup([first, second], tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError):
        soup([first, second], tmp_path / "file")


def test_architectures_must_agree(first: Path, tmp_path: Path):
    text = {**json.loads((first / "config.json").read_text())["text_config"], "rms_norm_eps": 0.5}
    other = copy(first, tmp_path / "other", text_config=text)
    with pytest.raises(ValueError, match=r"differ in architecture: config\.json has other text_config"):
        soup([first, other], tmp_path / "soup")


def test_versions_and_data_types_need_not_agree(first: Path, tmp_path: Path):
    other = copy(first, tmp_path / "other", transformers_version="5.0", dtype="bfloat16", _name_or_path="x")
    assert soup([first, other], tmp_path / "soup").is_dir()


def test_tensors_must_agree(first: Path, tmp_path: Path):
    lacking = copy(first, tmp_path / "lacking")
    tensors = load_file(lacking / WEIGHTS)
    name = next(iter(tensors))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, lacking / WEIGHTS)
    with pytest.raises(ValueError, match=rf"differ in 1 tensor\(s\), which only one of them has: {name}"):
        soup([first, lacking], tmp_path / "soup")
    wide = copy(first, tmp_path / "wide", lambda key, tensor: tensor[..., :-1].contiguous() if key == name else tensor)
    with pytest.raises(ValueError, match=f"the tensor {name} is .* in the one and .* in the other"):
        soup([first, wide], tmp_path / "soup")
    whole = copy(first, tmp_path / "whole", lambda key, tensor: tensor.to(torch.int8) if key == name else tensor)
    with pytest.raises(ValueError, match=f"{name} is .* floating numbers in the one and .* whole numbers"):
        soup([first, whole], tmp_path / "soup")


def test_weights_that_are_not_finite_are_not_spread(first: Path, tmp_path: Path):
    broken = copy(first, tmp_path / "broken", lambda _, tensor: tensor * math.nan)
    with pytest.raises(ValueError, match="is not finite"):
        soup([first, broken], tmp_path / "soup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_pickles_are_refused(first: Path, tmp_path: Path):
    pickled = copy(first, tmp_path / "pickled")
    (pickled / WEIGHTS).rename(pickled / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin but no safetensors"):
        soup([first, pickled], tmp_path / "soup")
    (pickled / "pytorch_model.bin").unlink()
    shutil.rmtree(next(pickled.glob("*_Dense")))
    with pytest.raises(FileNotFoundError, match="has no safetensors"):
        soup([first, pickled], tmp_path / "soup")
