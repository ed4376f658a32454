"""Make the miniature that ships in the package: its generative base, the checkpoints on the way, the embedding model.

    python scripts/make_miniature.py --work build/miniature                 # everything, about an hour on 2 cores
    python scripts/make_miniature.py --work build/miniature --only pretrain # or: embed, ship

All seeds are fixed. `--work` keeps the runs in full precision, with their optimizers, and an interrupted run goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_cards import miniature_card
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from lco_embedding import LCOEmbedding
from lco_embedding.checkpoints.builtin import CHECKPOINTS, STAGES
from lco_embedding.miniature import architecture, world
from lco_embedding.miniature.activation import activate
from lco_embedding.miniature.world.chats import Chats
from lco_embedding.training.arguments import read_recipe
from lco_embedding.training.generative import GenerativeArguments, pretrain
from lco_embedding.training.record import NAME

HOME = Path(__file__).parents[1]

ROUNDS: tuple[tuple[int, dict[str, Any]], ...] = (
    (3200, {}),
    (
        2000,
        {
            "shares": {"image": 0.34, "sound": 0.18, "clip": 0.26, "document": 0.07, "text": 0.15},
            "tasks": {"caption": 0.3, "question": 0.2, "detail": 0.3, "summary": 0.12, "transcription": 0.08},
        },
    ),
)
"""Steps of pretraining in each round, and what its chats are about where not as usual: in the second, more of what is
hard, which is to tell the parts of images."""

BASE_STEPS = sum(steps for steps, _ in ROUNDS)
KEPT_STEPS = (200, 400, 800, 1600, 3200)
"""Steps of pretraining at which the checkpoints for the scaling law are kept, besides the last."""

EMBEDDING_STEPS = 200
"""Steps of the contrastive training of the model that ships."""

TEMPLATE_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"


def corpus(count: int = 20_000) -> list[str]:
    """Return the texts that the tokenizer learns from: what is said in the world, and the chat template's own words."""
    rng = np.random.default_rng(0)
    texts = []
    for index in range(count):
        scene = world.sample(world.KINDS[index % len(world.KINDS)], "train", rng)
        medium = None if rng.random() < 0.8 else "text"
        asked = world.exchange(scene, rng, medium=medium)
        texts += [world.caption(scene, rng), asked.request, asked.answer]
    return texts + [TEMPLATE_WORDS] * 1000


class KeepCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Keeps generative checkpoints of some steps, counted from those that were done before."""

    def __init__(self, folder: Path, done: int, steps: tuple[int, ...]) -> None:
        self.folder, self.done, self.steps = folder, done, steps

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Save the weights."""
        step = self.done + state.global_step
        if step in self.steps and state.global_step < state.max_steps:
            model.save_pretrained(self.folder / f"step-{step:04}")


def pretrain_base(work: Path, seed: int) -> None:
    """Pretrain the base from random weights, in rounds of which each begins where the one before ended."""
    start = work / "random"
    if not start.exists():
        architecture.build(start, corpus(), seed=seed)
    # Unseen scenes in seen wordings: what the towers have learned, not how well phrases are guessed.
    held_out = {
        f"{kind}_{task}": Chats(128, 1, "dev", shares={kind: 1.0}, tasks={task: 1.0}, wordings="train")
        for kind in ("image", "sound", "clip")
        for task in ("question", "caption")
    } | {"document": Chats(128, 1, "dev", shares={"document": 1.0}, tasks={"transcription": 1.0}, wordings="train")}
    done = 0
    for number, (steps, options) in enumerate(ROUNDS):
        end = work / f"step-{done + steps:04}"
        if not (end / NAME).exists():
            arguments = GenerativeArguments(
                **{
                    **read_recipe("miniature", GenerativeArguments),
                    "model": str(start),
                    "output_dir": str(end),
                    "max_steps": steps,
                    "seed": seed + number,
                    "save_steps": 400,
                    "save_total_limit": 1,
                    "eval_strategy": "steps",
                    "eval_steps": 400,
                    "resume_from_checkpoint": "last",
                    "disable_tqdm": True,
                }
            )
            chats = Chats(steps * arguments.per_device_train_batch_size, seed=seed + number, **options)
            keep = KeepCheckpoints(work, done, KEPT_STEPS)
            pretrain(arguments, chats, held_out, callbacks=[keep])
        start, done = end, done + steps


def embed(work: Path, seed: int) -> None:
    """Train the embedding model from the base, on text alone."""
    activate(work / f"step-{BASE_STEPS}", work / "embedding", seed=seed, max_steps=EMBEDDING_STEPS)


def ship(work: Path) -> None:
    """Put the checkpoints into the package, in bfloat16, with cards of their records."""
    base = work / f"step-{BASE_STEPS}"
    shutil.rmtree(STAGES, ignore_errors=True)
    for source, target in (
        (base, CHECKPOINTS["base"]),
        *((work / f"step-{step:04}", STAGES / f"step-{step:04}") for step in KEPT_STEPS),
    ):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for file in base.iterdir():
            if file.suffix in (".json", ".jinja") and file.name != NAME and not file.name.startswith("."):
                shutil.copy(file, target)
        weights = load_file(source / "model.safetensors")
        halved = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
        save_file(halved, target / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((target / "config.json").read_text(encoding="utf8"))
        (target / "config.json").write_text(json.dumps(_halved(config), indent=2) + "\n", encoding="utf8")
    shutil.copy(base / NAME, CHECKPOINTS["base"])
    model = LCOEmbedding(work / "embedding", device="cpu", model_kwargs={"dtype": torch.bfloat16})
    shutil.rmtree(CHECKPOINTS["embedding"], ignore_errors=True)
    model.save_pretrained(CHECKPOINTS["embedding"], create_model_card=False)
    shutil.copy(work / "embedding" / NAME, CHECKPOINTS["embedding"])
    for part in CHECKPOINTS:
        miniature_card(part)
    for folder in (*CHECKPOINTS.values(), *sorted(STAGES.iterdir())):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder.relative_to(HOME)}: {size / 1e6:.1f} MB")


def _halved(config: Any) -> Any:
    """Return a configuration whose dtypes are bfloat16."""
    if isinstance(config, dict):
        return {key: "bfloat16" if key == "dtype" else _halved(value) for key, value in config.items()}
    return config


def main() -> None:
    """Make the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/miniature"))
    parser.add_argument("--only", choices=("pretrain", "embed", "ship"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.only in (None, "pretrain"):
        pretrain_base(arguments.work, arguments.seed)
    if arguments.only in (None, "embed"):
        embed(arguments.work, arguments.seed)
    if arguments.only in (None, "ship"):
        ship(arguments.work)


if __name__ == "__main__":
    main()
