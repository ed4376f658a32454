"""The proof of a checkpoint before it leaves: every check is made, and all that fail are listed.

    for finding in verify("folder"):
        print(finding)

The checks: it loads in a fresh process, without network and remote code, in stock Sentence Transformers (adapters and
the `omni` layout, which stock can't read, in `LCOEmbedding`); its embeddings of the probe set equal those of the model
in memory, and its chat template renders the same; there are only safetensors, as large and of the dtype that is stated;
no file holds a path of this machine or a secret; `config.json` names the generation class; the card has valid metadata
with a license and a base model.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from huggingface_hub import ModelCard, constants
from numpy.typing import NDArray

from lco_embedding.checkpoints import record as records
from lco_embedding.checkpoints.info import Checkpoint
from lco_embedding.hub import probes
from lco_embedding.hub.files import Finding as Finding
from lco_embedding.hub.files import check_files
from lco_embedding.model_cards.card import README, metadata_of

if TYPE_CHECKING:
    from lco_embedding.model import LCOEmbedding

TOLERANCES = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 3e-2, "float16": 3e-2}
"""By the dtype of the weights, how far an embedding may be from that of the model in memory: the length of their
difference, both being of length 1. What remains are other kernels and, of narrow dtypes, their rounding."""

TIMEOUT = 3600.0
"""Seconds that a fresh process may take to load the checkpoint and embed the probes."""

LICENSE_REMEDY = (
    "`lco-embedding card --license apache-2.0`, or in Python `model.model_card_data.license = 'apache-2.0'`"
)
BASE_REMEDY = "`lco-embedding card --base-model ORG/NAME`, or in Python `model.model_card_data.base = 'ORG/NAME'`"

WHOLE_CLASS = "Qwen2_5OmniForConditionalGeneration"


class VerificationError(ValueError):
    """A checkpoint is not fit to be published.

    Args:
        folder: That was verified.
        findings: Everything that is wrong with it.
    """

    def __init__(self, folder: str | Path, findings: Sequence[Finding]) -> None:
        listed = "\n".join(f"- {finding}" for finding in findings)
        super().__init__(f"nothing was sent: {len(findings)} check(s) of {Path(folder).name} failed:\n{listed}")
        self.findings = list(findings)


def verify(
    folder: str | Path, model: LCOEmbedding | None = None, device: str | None = None, timeout: float = TIMEOUT
) -> list[Finding]:
    """Check that a checkpoint is fit to be published.

    Args:
        folder: The checkpoint.
        model: The model that it was saved from; it is loaded from the folder unless given.
        device: Where the models run; that of `model`, or the CPU, unless given.
        timeout: Seconds that the fresh process may take.

    Returns:
        What is wrong; nothing if all is well.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    findings = list(check_files(folder))
    findings += check_config(folder)
    findings += check_card(folder)
    # What holds a pickle or code is not loaded at all; what is incomplete can't be.
    if not any(finding.check in ("weights", "safetensors", "remote code") for finding in findings):
        findings += _check_embeddings(folder, model, device, timeout)
    return findings


def check_config(folder: Path) -> Iterator[Finding]:
    """Check that the configuration names the generation class and modules of stock, or an adapter its base."""
    try:
        checkpoint = Checkpoint.read(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield Finding("config", f"the files can't be read: {error}")
        return
    if checkpoint.layout == "adapter":
        adapter = checkpoint.adapter or {}
        base = adapter.get("base_model_name_or_path") or ""
        if not records.HUB_ID.fullmatch(base) or Path(base).exists():
            yield Finding(
                "base model",
                f"adapter_config.json names {base!r} as the base, which others can't load; name a repository of the "
                "Hub (lco-embedding export --layout adapter --base-model ORG/NAME)",
            )
        return
    if checkpoint.backbone is None:
        yield Finding("config", "config.json is missing, or names an architecture that is not supported")
        return
    expected = WHOLE_CLASS if checkpoint.layout == "omni" else checkpoint.backbone.generation_class
    if checkpoint.architecture != expected:
        yield Finding(
            "config",
            f"config.json names {checkpoint.architecture}, not the generation class {expected}, which serving engines "
            "look for; save the model with LCOEmbedding.save_pretrained",
        )
    modules = json.loads((folder / "modules.json").read_text(encoding="utf8")) if checkpoint.is_embedder else []
    for entry in modules:
        if not entry["type"].startswith("sentence_transformers."):
            yield Finding(
                "remote code",
                f"modules.json names {entry['type']}, which loads only with trust_remote_code; save the model without "
                "custom_modules",
            )
    if not checkpoint.is_embedder:
        yield Finding("config", "there is no modules.json: it is a generative model, not an embedding model")


def check_card(folder: Path) -> Iterator[Finding]:
    """Check that there is a card whose metadata the Hub accepts, with a license and a base."""
    path = folder / README
    if not path.is_file():
        yield Finding("card", f"there is no {README}; write one with `lco-embedding card`")
        return
    text = path.read_text(encoding="utf8")
    try:
        data = metadata_of(text)
        ModelCard(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        yield Finding("card", f"the metadata of the {README} is not valid: {error}")
        return
    license_ = data.get("license")
    if not license_:
        yield Finding("card", f"no license is stated in the {README}: {LICENSE_REMEDY}")
    elif license_ == "other" and not data.get("license_name"):
        yield Finding("card", "the license is 'other', which needs license_name and license_link")
    base = data.get("base_model")
    names = [base] if isinstance(base, str) else base or []
    if not names and not records.is_from_nothing(_record(folder)):
        yield Finding("card", f"no base model is stated in the {README}: {BASE_REMEDY}")
    for name in names:
        if not isinstance(name, str) or not records.HUB_ID.fullmatch(name):
            yield Finding("card", f"the base model {name!r} is not the id of a repository")
    for key, kind in (("tags", list), ("datasets", list), ("library_name", str), ("pipeline_tag", str)):
        if key in data and not isinstance(data[key], kind):
            yield Finding("card", f"{key} in the metadata must be a {kind.__name__}, got {data[key]!r}")
    if data.get("library_name") != "sentence-transformers":
        yield Finding("card", "library_name in the metadata must be sentence-transformers, by which the Hub knows it")
    for picture in re.findall(r"!\[[^\]]*\]\((?!https?://)([^)]+)\)", text):
        if not (folder / picture).is_file():
            yield Finding("card", f"the card shows {picture}, which is not there")


def _record(folder: Path) -> records.Record | None:
    try:
        return records.previous(folder)
    except ValueError:
        return None


# --- embeddings -------------------------------------------------------------------------------------------------------


def _check_embeddings(
    folder: Path, model: LCOEmbedding | None, device: str | None, timeout: float
) -> Iterator[Finding]:
    """Check that a fresh process gets the embeddings of the model in memory, and the prompts."""
    from lco_embedding.model import LCOEmbedding

    if model is None:
        try:
            model = LCOEmbedding(folder, device=device or "cpu")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            yield Finding("loading", f"LCOEmbedding can't load it: {error}")
            return
    kinds: list[str] = list(model.omni.backbone.kinds)
    dtype = str(model.dtype).removeprefix("torch.")
    # Before the fresh process: what it needs of the Hub, the base of an adapter, is then in the cache.
    expected, chats = probes.embed(model, kinds), probes.render(model, kinds)
    loader = "stock" if _is_for_stock(folder, model) else "lco_embedding"
    name = "SentenceTransformer" if loader == "stock" else "LCOEmbedding"
    job = {"loader": loader, "kinds": kinds, "device": device or str(model.device), "dtype": dtype}
    try:
        got, rendered = _in_a_fresh_process(folder, job, timeout)
    except _FreshProcessError as error:
        yield Finding("loading", f"{name} in a fresh process, without network and remote code: {error}")
        return
    for kind, text in rendered.items():
        if text != chats[kind]:
            yield Finding(
                "prompts",
                f"the chat template does not write {chats[kind]!r} for {kind} content, as that of the model in memory, "
                f"but {text!r}",
            )
    if got.shape != expected.shape:
        yield Finding("embeddings", f"{name} gives vectors of {got.shape[1]} dimensions, not of {expected.shape[1]}")
        return
    tolerance = TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
    for probe, ours, theirs in zip(probes.probes(kinds), expected, got, strict=True):
        distance = float(np.linalg.norm(ours.astype(np.float64) - theirs.astype(np.float64)))
        if not distance <= tolerance:
            yield Finding(
                "embeddings",
                f"of the {probe} probe, {name} in a fresh process gives another embedding than the model in memory: "
                f"they are {distance:.2g} apart, more than {tolerance:g}",
            )


def _is_for_stock(folder: Path, model: LCOEmbedding) -> bool:
    """Tell whether stock Sentence Transformers reads a checkpoint: no adapter, nor a part named as in its whole."""
    if not all((folder / name).is_file() for name in ("modules.json", "config.json")):
        return False
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    return bool(config.get("model_type") == model.omni.backbone.model_type)


class _FreshProcessError(Exception):
    """The fresh process failed."""


def _in_a_fresh_process(
    folder: Path, job: dict[str, Any], timeout: float
) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Load a checkpoint in a process that has seen nothing, and embed the probes there."""
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory() as output:
        # From another folder, so that no name in the checkpoint is taken for a file that happens to lie here.
        command = [sys.executable, probes.__file__, str(folder.resolve()), output, json.dumps(job)]
        if job["loader"] != "stock":
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_home(), environment.get("PYTHONPATH")]))
        try:
            done = subprocess.run(
                command, cwd=output, env=environment, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise _FreshProcessError(f"it took longer than {timeout:g} seconds") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = lines[-1] if lines else f"it ended with status {done.returncode}"
            raise _FreshProcessError(reason)
        embeddings = np.load(Path(output, "embeddings.npy"), allow_pickle=False)
        return embeddings, json.loads(Path(output, "rendered.json").read_text(encoding="utf8"))


def _home() -> str:
    """Return the folder that this package is imported from."""
    return str(Path(__file__).resolve().parents[2])
