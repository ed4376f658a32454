"""The private names of the libraries under us: which are used, and that they still are what they were.

An upgrade that moves one of them fails here and says which. What is new in the list needs a reason: public names first.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentence_transformers
import transformers
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.modules import Transformer
from transformers import PreTrainedModel, Trainer

LIBRARY = Path(__file__).parents[1] / "lco_embedding"

OVERRIDDEN: dict[tuple[type, str], list[str]] = {
    (SentenceTransformer, "_inference"): [
        "self",
        "inputs",
        "prompt",
        "batch_size",
        "show_progress_bar",
        "output_value",
    ],
    (SentenceTransformer, "_load_module_class_from_ref"): ["self", "class_ref"],
    (SentenceTransformer, "_load_modules"): ["self", "model_name_or_path", "token", "cache_folder", "revision"],
    (SentenceTransformer, "_load_default_modules"): ["self", "model_name_or_path", "token", "cache_folder", "revision"],
    (SentenceTransformer, "_create_model_card"): ["self", "path", "model_name", "train_datasets"],
    (SentenceTransformer, "_resolve_inference_device"): ["self", "device"],
    (Transformer, "_load_config"): ["self", "model_name_or_path", "backend", "config_kwargs"],
    (Transformer, "_load_model"): ["self", "model_name_or_path", "transformer_task", "config", "backend"],
    (SentenceTransformerTrainer, "_load_from_checkpoint"): ["self", "checkpoint_path"],
    (Trainer, "_load_from_checkpoint"): ["self", "resume_from_checkpoint", "model"],
    (Trainer, "_load_best_model"): ["self"],
    (Trainer, "_save"): ["self", "output_dir", "state_dict"],
    (Trainer, "_save_checkpoint"): ["self", "model", "trial"],
    (Trainer, "_prepare_inputs"): ["self", "inputs"],
}
"""Private methods that are overridden or called, with their first parameters."""

ATTRIBUTES = {
    "_hf_peft_config_loaded": PreTrainedModel,
    "_keys_to_ignore_on_load_unexpected": PreTrainedModel,
    # Set by the constructor.
    "_model_card_text": None,
    "_cached_dict": None,
    # Of torch: where a module keeps its parameters and children.
    "_parameters": None,
    "_modules": None,
    # Argument of `cached_file`.
    "_raise_exceptions_for_missing_entries": None,
    # Argument of `save_model`, with which the trainer calls it.
    "_internal_call": None,
}
"""Private attributes and arguments, and the class that has them."""


def private_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names with one underscore that a file defines, reads or passes, other than its own functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef):
            yield node.name
            yield from (argument.arg for argument in node.args.args)
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("lco_embedding"):
            yield from (name.name for name in node.names)


def upstream_members() -> set[str]:
    classes = [SentenceTransformer, SentenceTransformerTrainer, Transformer, Trainer, PreTrainedModel]
    return {name for each in classes for name in dir(each) if name.startswith("_") and not name.startswith("__")}


def test_no_other_private_names_are_used() -> None:
    trees = [ast.parse(path.read_text(encoding="utf8")) for path in LIBRARY.rglob("*.py")]
    used = {name for tree in trees for name in private_names(tree)}
    private = {name for name in used if name.startswith("_") and not name.startswith("__") and name != "_"}
    listed = {name for _, name in OVERRIDDEN} | set(ATTRIBUTES)
    assert private & upstream_members() - listed == set(), "private names of upstream that are not in the list"
    assert {name for name in listed if name not in private} == set(), "names in the list that are not used any more"


@pytest.mark.parametrize(("owner", "name"), OVERRIDDEN, ids=lambda value: getattr(value, "__name__", value))
def test_private_methods_are_as_they_were(owner: type, name: str) -> None:
    where = f"of transformers {transformers.__version__}, Sentence Transformers {sentence_transformers.__version__}"
    method = getattr(owner, name, None)
    assert method is not None, f"{owner.__name__}.{name} is gone {where}"
    parameters = list(inspect.signature(method).parameters)
    expected = [parameter for parameter in OVERRIDDEN[owner, name] if parameter != "self" or "self" in parameters]
    assert parameters[: len(expected)] == expected, f"{owner.__name__}.{name} takes {parameters} {where}"


@pytest.mark.parametrize("name", [name for name, owner in ATTRIBUTES.items() if owner is not None])
def test_private_attributes_are_there(name: str) -> None:
    assert hasattr(ATTRIBUTES[name], name)
