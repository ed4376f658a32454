"""The sections of the report: for each claim of the paper its judgement, tables and plots, all made of the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lco_embedding.analysis.kernels import MEASURES
from lco_embedding.analysis.pac_bayes import complexity_term
from lco_embedding.analysis.plots import plot_bars, plot_layers, plot_scaling_law
from lco_embedding.analysis.scaling_law import Point, fit_pairs
from lco_embedding.evaluation.retrieval import Estimate
from lco_embedding.miniature.reproduction.claims import Claim, Values, difference, interval
from lco_embedding.miniature.reproduction.experiments import Findings
from lco_embedding.miniature.reproduction.measures import chance, gains
from lco_embedding.miniature.reproduction.settings import MEDIA, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measured = Mapping[str, Any]
Table = list[list[str]]

WAYS = {
    "lora": "LoRA on text",
    "full": "full fine-tuning on text",
    "projection": "projection on text",
    "clip": "CLIP-style on text-media pairs",
}


@dataclass
class Section:
    """A part of the report.

    Args:
        title: Its heading.
        text: What was done.
        claims: What is judged.
        tables: By their captions; the first row is the head.
        figures: By their names.
    """

    title: str
    text: str
    claims: list[Claim]
    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)


def sections(found: Findings, settings: Settings) -> list[Section]:
    """Make all sections."""
    return [
        geometry(found),
        retrieval(found, settings),
        rivals(found, settings),
        scaling(found),
        documents(found, settings),
    ]


def geometry(found: Findings) -> Section:
    """Claim 1: training on text alone spreads the media too, and arranges them as it does their captions."""
    claims, kernels = [], [["", *MEASURES]]
    layers: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]] = {"anisotropy": {}, "mutual_knn": {}}
    shapes = [["", "anisotropy", "of the captions", "modality gap", "effective rank (centred)"]]
    for kind in MEDIA:
        before, after = [found.base], found.tuned
        claims += [
            Claim(
                f"{kind}: anisotropy falls (mean cosine, before less after)",
                difference(_rows(before, kind, "cosines"), _rows(after, kind, "cosines"), spread=2),
            ),
            Claim(
                f"{kind}: kernel alignment with text rises (mutual-kNN, k = 10)",
                difference(_rows(after, kind, "shared"), _rows(before, kind, "shared")),
            ),
        ]
        for name, runs in (("before", before), ("after", after)):
            each = [run[kind] for run in runs]
            kernels.append(
                [f"{kind}, {name}", *(f"{_mean(run['kernels'][key] for run in each):.3f}" for key in MEASURES)]
            )
            means = [_mean(run[key] for run in each) for key in ("gap", "rank")]
            cosines = [_mean(np.mean(run[key]) for run in each) for key in ("cosines", "text_cosines")]
            shapes.append([f"{kind}, {name}", *(f"{value:.3f}" for value in (*cosines, means[0])), f"{means[1]:.1f}"])
        for key, curves in layers.items():
            curves[kind] = (found.base[kind][key], _layers(after, kind, key))
    layers["anisotropy"]["captions of images"] = (
        found.base["image"]["text_anisotropy"],
        _layers(found.tuned, "image", "text_anisotropy"),
    )
    return Section(
        "1. Training on text alone changes the geometry of every modality",
        "The base is embedded as it is, and after LoRA on triplets of captions. The towers are not loaded in training, "
        "and no picture, sound or clip is seen. Intervals are over scenes and seeds, at the last layer.",
        claims,
        {
            "Shape of the embeddings at the last layer": shapes,
            "Kernel alignment with captions at the last layer": kernels,
        },
        {
            "anisotropy": plot_layers(layers["anisotropy"], "mean cosine"),
            "mutual_knn": plot_layers(layers["mutual_knn"], "mutual-kNN with captions"),
        },
    )


def retrieval(found: Findings, settings: Settings) -> Section:
    """Claim 2: it brings retrieval out, of a pretrained model alone."""
    runs = {
        "base, before": [found.base],
        "base, after": found.tuned,
        "never pretrained, before": [found.control],
        "never pretrained, after": found.control_tuned,
    }
    level = chance(settings.count)
    claims = [
        Claim(
            f"text to {kind}: nDCG@10 rises",
            difference(_gains(found.tuned, [kind], ["text_to"]), _gains([found.base], [kind], ["text_to"])),
        )
        for kind in MEDIA
    ]
    claims += [
        Claim(
            f"{kind} to text: nDCG@10 rises",
            difference(_gains(found.tuned, [kind], ["to_text"]), _gains([found.base], [kind], ["to_text"])),
        )
        for kind in MEDIA
    ]
    control = interval(_gains(found.control_tuned))
    claims.append(
        Claim(
            f"never pretrained: stays within 0.02 of chance ({level:.3f}) after the same training",
            Estimate(control.value - level, control.low - level, control.high - level),
            margin=0.02,
        )
    )
    return Section(
        "2. Retrieval before and after, and without pretraining",
        f"nDCG@10 in pools of {settings.count} held-out scenes of each kind, searched by captions of unseen templates; "
        f"chance is {level:.3f}. The control has the architecture, tokenizer and training of the other, and random "
        "weights instead of pretraining.",
        claims,
        {"nDCG@10 with 95% intervals": _directions(runs)},
        {"retrieval": plot_bars(_bars(runs), "nDCG@10, text to medium")},
    )


def rivals(found: Findings, settings: Settings) -> Section:
    """Claim 3: LoRA on text is better than other ways at equal data."""
    runs = {WAYS["lora"]: found.tuned} | {WAYS[way]: runs for way, runs in found.rivals.items()}
    ours = _gains(found.tuned)
    claims = [
        Claim(f"{WAYS['lora']} is better than {WAYS[way]} (nDCG@10, all directions)", difference(ours, _gains(each)))
        for way, each in found.rivals.items()
    ]
    moved = {way: {key: _mean(run[key] for run in each) for key in each[0]} for way, each in found.divergence.items()}
    full, lora = (np.log1p([[run["kl"]] for run in found.divergence[way]]) for way in ("full", "lora"))
    claims.append(
        Claim(
            "LoRA moves the weights less than full fine-tuning (ln(1 + KL proxy), full less LoRA)",
            difference(full, lora),
        )
    )
    examples = settings.steps * settings.rows
    table = [
        [
            "",
            "learning rate",
            "norm of the change / of the weights",
            "KL proxy, nats",
            "stable rank",
            "price in the bound",
        ]
    ]
    for way, each in moved.items():
        table.append(
            [
                WAYS[way],
                f"{found.rates[way]:g}",
                f"{each['relative']:.3f}",
                f"{each['kl']:.3g}",
                f"{each['stable_rank']:.1f}",
                f"{complexity_term(each['kl'], examples):.2f}",
            ]
        )
    return Section(
        "3. LoRA against full fine-tuning, a projection, and CLIP-style training",
        f"Each sees {examples:,} examples: the first three the same triplets of captions, the last as many pairs of a "
        "caption and its image, sound or clip, and trains the towers too. Its pairs are of the world that is searched: "
        "the paper's were not of its benchmarks. Learning rates of the rivals: "
        f"{', '.join(map(str, settings.full_rates))} (full), {', '.join(map(str, settings.projection_rates))} "
        f"(projection) and {', '.join(map(str, settings.clip_rates))} (CLIP-style) were tried; of several, the best on "
        "development scenes is taken. The KL proxy is explained in docs/theory.md; it compares ways, "
        "and the price shows that the bound is vacuous in numbers.",
        claims,
        {"nDCG@10 with 95% intervals": _directions(runs), "How far the weights went": table},
        {"rivals": plot_bars(_bars(runs), "nDCG@10, text to medium")},
    )


def scaling(found: Findings) -> Section:
    """Claim 4: the better a stage of pretraining generates, the better it embeds after training."""
    points = [
        Point(
            stage,
            f"text to {kind}",
            -each["generation"][kind]["nll"],
            float(np.mean([gains(run[kind]["text_to"]).mean() for run in each["measured"]])),
        )
        for stage, each in found.stages.items()
        for kind in MEDIA
    ]
    laws = fit_pairs(points)
    claims = [
        Claim(f"{pair}: generation and representation correlate (Pearson)", law.pearson) for pair, law in laws.items()
    ] + [Claim(f"{pair}: so do their ranks (Spearman)", law.spearman) for pair, law in laws.items()]
    scores = [["", *(f"{kind}: {what}" for kind in MEDIA for what in ("nll", "accuracy", "nDCG@10"))]]
    for stage, each in found.stages.items():
        row = [stage]
        for kind in MEDIA:
            generated = each["generation"][kind]
            value = next(p.representation for p in points if p.model == stage and p.pair == f"text to {kind}")
            row += [f"{generated['nll']:.3f}", f"{generated['accuracy']:.3f}", f"{value:.3f}"]
        scores.append(row)
    left = [["left out", *(f"{pair}: predicted / actual" for pair in laws)]]
    for stage in found.stages:
        cells = [law.left_out[stage] for law in laws.values()]
        left.append([stage, *(f"{each.predicted:.3f} / {each.actual:.3f}" for each in cells)])
    return Section(
        "4. The generation-representation scaling law",
        "The stages of the base's pretraining, by steps. Generation is the negated loss of captions of unseen scenes "
        "(nats a token), before any contrastive training; representation is nDCG@10 after it. Intervals are over "
        "stages, of which there are few. The stages are of one run, and do not differ in size or data as the paper's "
        "models do.",
        claims,
        {"Scores of the stages": scores, "Each stage predicted from the others": left},
        {"scaling_law": plot_scaling_law(laws, "caption log-likelihood (nats a token)", "nDCG@10 after training")},
    )


def documents(found: Findings, settings: Settings) -> Section:
    """Claim 5: continual pretraining on documents raises what the same contrastive training brings out."""
    without, read = found.documents["without"], found.documents["with"]
    claims = [
        Claim(
            f"{name}: nDCG@10 rises with continual pretraining on pages",
            difference(_gains(read["measured"], ["runes"], [key]), _gains(without["measured"], ["runes"], [key])),
        )
        for name, key in (("text to page", "text_to"), ("page to text", "to_text"))
    ]
    kept = difference(_gains(read["measured"]), _gains(without["measured"]))
    claims.append(Claim("image, sound and clip keep their nDCG@10 within 0.05", kept, margin=0.05))
    table = [["", "transcription nll", "token accuracy", "words asked for, exact", "text to page", "page to text"]]
    for name, each in found.documents.items():
        for when, runs in (("before", [each["before"]]), ("after", each["measured"])):
            generated = each["generation"]
            table.append(
                [
                    f"{name} pages, {when} contrastive training",
                    f"{generated['transcription']['nll']:.3f}",
                    f"{generated['transcription']['accuracy']:.3f}",
                    f"{generated['question']['exact']:.3f}",
                    *(str(interval(_gains(runs, ["runes"], [key]))) for key in ("text_to", "to_text")),
                ]
            )
    bars = {
        name: {
            f"{way} pages": interval(_gains(each["measured"], ["runes"], [key]))
            for way, each in found.documents.items()
        }
        for name, key in (("text to page", "text_to"), ("page to text", "to_text"))
    }
    return Section(
        "5. SeaDoc in miniature",
        "Pages in an invented script, of which pretraining saw hardly any (2% of 8% of its chats). The base is trained "
        f"on to read them for {settings.document_steps} steps of {settings.document_rows} chats, three quarters pages "
        "and one quarter general chats; then both have the same contrastive training on text. The comparison without "
        "pages has no other pretraining in their place.",
        claims,
        {f"nDCG@10 among {settings.count} unseen pages": table},
        {"documents": plot_bars(bars, "nDCG@10")},
    )


def _rows(runs: Sequence[Measured], kind: str, key: str) -> Values:
    """Return figures of single examples, of shape (runs, examples)."""
    return np.array([run[kind][key] for run in runs], dtype=np.float64)


def _gains(
    runs: Sequence[Measured], kinds: Sequence[str] = MEDIA, directions: Sequence[str] = ("text_to", "to_text")
) -> Values:
    """Return nDCG@10 of every query of some kinds and directions, of shape (runs, queries)."""
    return np.array([np.concatenate([gains(run[kind][key]) for kind in kinds for key in directions]) for run in runs])


def _layers(runs: Sequence[Measured], kind: str, key: str) -> list[float]:
    layers: list[float] = np.mean([run[kind][key] for run in runs], axis=0).tolist()
    return layers


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _directions(runs: Mapping[str, Sequence[Measured]]) -> Table:
    head = ["", "all", *(f"text to {kind}" for kind in MEDIA), *(f"{kind} to text" for kind in MEDIA)]
    table = [head]
    for name, each in runs.items():
        cells = [_gains(each)] + [_gains(each, [kind], [key]) for key in ("text_to", "to_text") for kind in MEDIA]
        table.append([name, *(str(interval(values)) for values in cells)])
    return table


def _bars(runs: Mapping[str, Sequence[Measured]]) -> dict[str, dict[str, Estimate]]:
    return {kind: {name: interval(_gains(each, [kind], ["text_to"])) for name, each in runs.items()} for kind in MEDIA}
