"""Time `encode` against the loop of LCO-Emb's model cards and against Sentence Transformers alone, on real files.

    python benchmarks/encode.py                                   # all corpora; hours on 2 cores (--share 0.1)
    python benchmarks/encode.py --corpora short images --rounds 3
    python benchmarks/encode.py --size 3b --device cuda           # real sizes, random weights, bfloat16

A random Qwen2.5-Omni thinker is built and saved, corpora are written as files, and each way of embedding runs in a
process of its own, in turns, so that a noisy machine treats all alike. Figures are items a second without loading, and
the peak of resident memory beyond what the loaded model takes. The embeddings of all ways must agree.

The ways:
    official    the loop of the model cards: the generation class with all logits and hidden states, batches of 8 in the
                order of the corpus, padded left; videos and audio are decoded by the functions of this package
    stock       `SentenceTransformer` on the saved checkpoint, files by their paths; videos are decoded for it, as it
                needs torchcodec and FFmpeg for files
    ours        `LCOEmbedding` on the same checkpoint, by paths

With `--without prefix batches ...` ours is timed against itself with each of these measures switched off, in turns in
one process: what they bring is less than what the machine may vary from one process to the next.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from common import SIZES, build_model, describe_machine, make_text, make_words, resident

CORPORA = ("short", "long", "images", "audio", "video", "mixed")
WAYS = ("official", "stock", "ours")
MEASURES = ("prefix", "batches", "pieces", "audio-length", "threads")
"""What `--without` switches off."""


# --- model and corpora ------------------------------------------------------------------------------------------------


def smooth(height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a picture of soft colours, which compresses as photographs do."""
    coarse = Image.fromarray(rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def write_video(path: Path, frames: NDArray[np.uint8], fps: int) -> None:
    """Write frames of shape (frames, height, width, 3)."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_corpora(folder: Path, words: list[str], share: float) -> None:
    """Write the corpora: media files, and for each corpus a JSON list of {"text"} or {kind: path}."""
    import soundfile

    rng = np.random.default_rng(1)
    corpora: dict[str, list[dict[str, str]]] = {
        "short": [{"text": make_text(words, rng.integers(5, 21), rng)} for _ in range(round(2000 * share))],
        "long": [{"text": make_text(words, rng.integers(5, 501), rng)} for _ in range(round(1000 * share))],
        "images": [],
        "audio": [],
        "video": [],
    }
    for number in range(round(200 * share)):
        height, width = rng.integers(64, 1001, 2)
        path = folder / f"{number}.{('jpg', 'png', 'webp')[number % 3]}"
        Image.fromarray(smooth(height, width, rng)).save(path)
        corpora["images"].append({"image": str(path)})
    for number in range(round(200 * share)):
        rate = (16_000, 44_100)[number % 2]
        times = np.arange(int(rng.uniform(1, 20) * rate)) / rate
        wave = 0.4 * np.sin(2 * np.pi * rng.uniform(100, 800) * times) + 0.05 * rng.standard_normal(len(times))
        path = folder / f"{number}.{('wav', 'flac', 'mp3')[number % 3]}"
        soundfile.write(path, wave.astype(np.float32), rate)
        corpora["audio"].append({"audio": str(path)})
    for number in range(round(40 * share)):
        # Of whole seconds, so that just 2 frames a second are seen: only then do all ways state the same times.
        picture = smooth(240, 320, rng)
        frames = np.stack([np.roll(picture, shift, axis=1) for shift in range(8 * rng.integers(2, 21))])
        path = folder / f"{number}.mp4"
        write_video(path, frames, 8)
        corpora["video"].append({"video": str(path)})
    parts = [corpora["short"][: round(400 * share)], corpora["long"][: round(100 * share)]]
    parts += [corpora[name][: round(40 * share)] for name in ("images", "audio")] + [
        corpora["video"][: round(10 * share)]
    ]
    mixed = [item for part in parts for item in part]
    corpora["mixed"] = [mixed[index] for index in rng.permutation(len(mixed))]
    for name, items in corpora.items():
        (folder / f"{name}.json").write_text(json.dumps(items))


# --- the ways ---------------------------------------------------------------------------------------------------------


def load_official(model: Path, device: str) -> Any:
    """Return the embedding function of the loop of the model cards."""
    from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

    from lco_embedding.modules import media
    from lco_embedding.modules.media import Sampling

    processor = AutoProcessor.from_pretrained(model)
    processor.tokenizer.padding_side = "left"
    network = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(model, dtype="auto").to(device).eval()

    def embed(items: list[dict[str, str]]) -> NDArray[np.float32]:
        rows = []
        for start in range(0, len(items), 8):
            batch = items[start : start + 8]
            chats = [
                [{"role": "user", "content": [{"type": kind, "text": value} for kind, value in item.items()]}]
                for item in batch
            ]
            texts = processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
            found: dict[str, list[Any]] = {
                kind: [i[kind] for i in batch if kind in i] for kind in ("image", "audio", "video")
            }
            given: dict[str, Any] = {}
            if found["image"]:
                given["images"] = [Image.open(path).convert("RGB") for path in found["image"]]
            if found["audio"]:
                given["audio"] = [media.load_audio(path, 16_000, 300) for path in found["audio"]]
            if found["video"]:
                clips = [media.load_video(path, Sampling(), 768 * 28 * 28).frames for path in found["video"]]
                given["videos"] = [torch.from_numpy(frames).permute(0, 3, 1, 2) for frames in clips]
            inputs = processor(text=texts, **given, padding=True, return_tensors="pt").to(device)
            for key in ("pixel_values", "pixel_values_videos", "input_features"):
                if key in inputs:
                    inputs[key] = inputs[key].to(network.dtype)
            with torch.inference_mode():
                states = network(**inputs, output_hidden_states=True, return_dict=True).hidden_states[-1]
            rows.append(torch.nn.functional.normalize(states[:, -1].float(), dim=1).cpu())
        return torch.cat(rows).numpy()

    return embed


def load_stock(model: Path, device: str) -> Any:
    """Return the embedding function of Sentence Transformers alone, at its own batch size."""
    from sentence_transformers import SentenceTransformer

    from lco_embedding.modules import media
    from lco_embedding.modules.media import Sampling

    network = SentenceTransformer(str(model), device=device)

    def given(item: dict[str, str]) -> Any:
        kind, value = next(iter(item.items()))
        if kind == "video":
            clip = media.load_video(value, Sampling(), 768 * 28 * 28)
            return {"array": clip.frames, "video_metadata": {"fps": clip.fps, "total_num_frames": len(clip.frames)}}
        return value

    def embed(items: list[dict[str, str]]) -> NDArray[np.float32]:
        return network.encode([given(item) for item in items])

    return embed


@contextmanager
def switched_off(measure: str, device: str) -> Iterator[dict[str, Any]]:
    """Switch one of `MEASURES` off, for loading and embedding; yield arguments of `encode` that belong to it."""
    from lco_embedding.modules import omni_transformer
    from lco_embedding.modules.media_features import MediaReader

    waveform = MediaReader._waveform

    def padded(reader: MediaReader, samples: NDArray[np.float32]) -> dict[str, Any]:
        given = waveform(reader, samples)
        given["audio_kwargs"]["max_length"] = reader.processor.feature_extractor.n_samples
        return given

    arguments: dict[str, dict[str, Any]] = {
        "prefix": {"reuse_prefix": False},
        "batches": {"batch_size": 32, "max_batch_tokens": 10**9},
        # There are none beside a model on the CPU, so that one is added there.
        "threads": {"num_workers": 1 if device == "cpu" else 0},
    }
    with ExitStack() as stack:
        if measure == "pieces":
            stack.enter_context(patch.object(omni_transformer, "read_in_pieces", lambda module: None))
        if measure == "audio-length":
            stack.enter_context(patch.object(MediaReader, "_waveform", padded))
        yield arguments.get(measure, {})


def load_ours(model: Path, device: str, without: str = "") -> Any:
    """Return the embedding function of this package, with a measure switched off if one is named."""
    from lco_embedding import LCOEmbedding

    with switched_off(without, device):
        network = LCOEmbedding(model, device=device)

    def embed(items: list[dict[str, str]]) -> NDArray[np.float32]:
        with switched_off(without, device) as arguments:
            return network.encode(items, **arguments)

    return embed


def work(arguments: argparse.Namespace) -> None:
    """Embed one corpus in one way, and write the embeddings and figures."""
    items = json.loads((arguments.folder / f"{arguments.corpus}.json").read_text())
    items = items[:: arguments.every]
    embed = globals()[f"load_{arguments.way}"](arguments.folder / "model", arguments.device)
    embed(items[: min(4, len(items))])
    on_gpu = arguments.device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    start = time.perf_counter()
    embeddings = np.asarray(embed(items), dtype=np.float32)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")
    figures = {"items": len(items), "seconds": seconds, "memory": peak - before}
    if arguments.limit:
        figures["share_of_limit"] = share_of_limit(embed, items, seconds, arguments.device)
    np.save(arguments.output, embeddings)
    print(json.dumps(figures))


def share_of_limit(embed: Any, items: list[Any], seconds: float, device: str) -> float:
    """Return the time that the matrix products alone would take at the rate of this machine, as a share of the time.

    What is counted is what was computed, padding included; the rate is that of products of the decoder's own shape.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        embed(items)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    left, right = torch.randn(4096, 512, dtype=dtype, device=device), torch.randn(512, 2752, dtype=dtype, device=device)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(5):
            left @ right
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        rates.append(5 * 2 * left.shape[0] * right.numel() / (time.perf_counter() - start))
    return float(counter.get_total_flops() / statistics.median(rates) / seconds)


# --- the comparison ---------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace, folder: Path, corpus: str, way: str) -> dict[str, Any]:
    """Run a way in a process of its own."""
    every = arguments.every if arguments.growth or (way == "official" and corpus in ("short", "long")) else 1
    output = folder / f"{corpus}-{way}.npy"
    command = [sys.executable, __file__, "--way", way, "--corpus", corpus, "--folder", str(folder)]
    command += ["--device", arguments.device, "--every", str(every), "--output", str(output)]
    command += ["--limit"] if arguments.limit and way == "ours" else []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way} on {corpus} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "every": every, "embeddings": np.load(output)}


def compare(arguments: argparse.Namespace, folder: Path, corpus: str) -> dict[str, Any]:
    """Run all ways on a corpus in turns, and return the medians and the ratios round by round."""
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(arguments.rounds):
        done: dict[str, dict[str, Any]] = {}
        for way in arguments.ways:
            if way == "official" and number and not arguments.official_each_round:
                done[way] = rounds[0][way]
            else:
                done[way] = run(arguments, folder, corpus, way)
        rounds.append(done)
    row: dict[str, Any] = {"corpus": corpus, "items": rounds[0]["ours"]["items"]}
    for way in arguments.ways:
        row[way] = {
            "items_per_second": statistics.median(each[way]["items"] / each[way]["seconds"] for each in rounds),
            "memory_mib": statistics.median(each[way]["memory"] for each in rounds) / 2**20,
        }
        if "share_of_limit" in rounds[0][way]:
            row["share_of_limit"] = statistics.median(each[way]["share_of_limit"] for each in rounds)
        if way != "ours":
            rates = [
                each["ours"]["items"] / each["ours"]["seconds"] * each[way]["seconds"] / each[way]["items"]
                for each in rounds
            ]
            row[way]["ratio"] = [min(rates), statistics.median(rates), max(rates)]
            last = rounds[-1]
            cosines = (last["ours"]["embeddings"][:: last[way]["every"]] * last[way]["embeddings"]).sum(1)
            row[way]["least_cosine"] = float(cosines.min())
    return row


def contributions(arguments: argparse.Namespace, folder: Path, corpus: str) -> dict[str, Any]:
    """Time ours with each measure switched off, in turns; how many times as long as with all it takes, by rounds."""
    items = json.loads((folder / f"{corpus}.json").read_text())
    ways = {name: load_ours(folder / "model", arguments.device, name) for name in ("", *arguments.without)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for embed in ways.values():
        embed(items[: min(4, len(items))])
    for _ in range(arguments.rounds):
        for name, embed in ways.items():
            start = time.perf_counter()
            embed(items)
            seconds[name].append(time.perf_counter() - start)
    whole = seconds.pop("")
    ratios = {
        name: [without / together for without, together in zip(times, whole, strict=True)]
        for name, times in seconds.items()
    }
    row = {name: [min(values), statistics.median(values), max(values)] for name, values in ratios.items()}
    return {"corpus": corpus, "items": len(items), "without": row}


def table(rows: list[dict[str, Any]], ways: list[str]) -> str:
    """Lay the figures out in Markdown."""
    others = [way for way in ways if way != "ours"]
    names = ["corpus", "items", "ours, items/s", *(f"against {way}" for way in others), "memory, MiB: ours"]
    names += [f"memory: {way}" for way in others] + ["least cosine", "share of limit"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        cells = [row["corpus"], f"{row['items']}", f"{row['ours']['items_per_second']:.1f}"]
        cells += ["{1:.1f}x [{0:.1f}, {2:.1f}]".format(*row[way]["ratio"]) for way in others]
        cells += [f"{row[way]['memory_mib']:.0f}" for way in ("ours", *others)]
        cells.append(f"{min([row[way]['least_cosine'] for way in others], default=1.0):.7f}")
        cells.append(f"{row['share_of_limit']:.0%}" if "share_of_limit" in row else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Build, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--without", nargs="+", choices=MEASURES, help="tell what these measures of ours bring")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="share of the items; 0.1 for a quick look")
    parser.add_argument("--every", type=int, default=10, help="of texts, the official loop embeds each so-manieth")
    parser.add_argument("--official-each-round", action="store_true", help="run the official loop in every round")
    parser.add_argument("--limit", action="store_true", help="tell how near ours is to the rate of matrix products")
    parser.add_argument("--growth", action="store_true", help="time ours on 1, 4 and 16 times as many short texts")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    parser.add_argument("--folder", type=Path, help="where model and corpora are kept between runs")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        work(arguments)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "mixed.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            build_model(folder / "model", arguments.size, arguments.device)
            write_corpora(folder, make_words(), arguments.share)
            (folder / "share").write_text(str(arguments.share))
        # A folder that was kept has the share that it was made with.
        arguments.share = float((folder / "share").read_text())
        rows: list[dict[str, Any]] = []
        if arguments.growth:
            for every in (16, 4, 1):
                arguments.every = every
                done = run(arguments, folder, "short", "ours")
                rows.append({"items": done["items"], "items_per_second": done["items"] / done["seconds"]})
                print(rows[-1], flush=True)
            arguments.corpora = []
        for corpus in arguments.corpora if arguments.without else ():
            rows.append(contributions(arguments, folder, corpus))
            print(rows[-1], flush=True)
            save(arguments, rows)
        for corpus in arguments.corpora if not arguments.without else ():
            rows.append(compare(arguments, folder, corpus))
            print(table(rows, arguments.ways), flush=True)
            save(arguments, rows)
        save(arguments, rows)


def save(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write what is measured so far, so that a run that is stopped is not lost."""
    if arguments.output is None:
        return
    settings = {name: getattr(arguments, name) for name in ("size", "device", "rounds", "share", "every")}
    result = {**settings, "rows": rows, "machine": describe_machine(arguments.device)}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
