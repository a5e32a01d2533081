"""Each command: its options, what it prints, and which errors end it in one line."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from clipfast.cli.choices import DEFAULT_LOSS, LOSS
from clipfast.cli.plan_command import plan
from clipfast.cli.terminal import console, stop

if TYPE_CHECKING:
    from clipfast.inference.classify import Result

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Fused contrastive losses and CLIP models.")


class Dtype(str, Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.command()
def doctor() -> None:
    """Say which backends are usable on this machine and why the rest is not."""
    from clipfast.cli.doctor import report

    found = Table(show_header=False)
    for subject, finding in report():
        found.add_row(subject, finding)
    console.print(found)


@app.command()
def bench(
    sizes: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1024,4096,8192",
    dim: Annotated[int, typer.Option(help="Width of the features.")] = 512,
    loss: Annotated[str, LOSS] = DEFAULT_LOSS,
    dtype: Annotated[Dtype, typer.Option(help="Of the features.")] = Dtype.float32,
    workspace_mib: Annotated[int, typer.Option(help="Workspace of the fused losses, MiB.")] = 64,
    compiled: Annotated[bool, typer.Option(help="Include the dense loss under torch.compile.")] = True,
    seconds: Annotated[float, typer.Option(help="Time to spend on repeated runs at each size (3 runs at least).")] = 10.0,
    json: Annotated[Path | None, typer.Option(help="Write the results here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture (PNG) here.")] = None,
) -> None:
    """Compare the dense loss with every usable backend: time, memory, and share of the arithmetic floor.

    The floor is the loss's least number of operations (8 N^2 D for a two-sided softmax) at the rate of plain
    products measured in the same process, for each library that has them.
    """
    from clipfast.bench.bench_report import table
    from clipfast.bench.measure import compare, environment

    counts, kind = _batch_sizes(sizes), getattr(torch, dtype.value)
    machine = environment()
    console.print(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}")
    found = []
    for n in counts:
        with console.status(f"N = {n}"):
            try:
                found.append(compare(loss, n, dim, kind, compiled, workspace_mib * 2**20, seconds))
            except ValueError as error:  # such as a workspace too small for the width
                stop(error)
        console.print(table(found[-1]))
    _write_comparisons(machine, found, json, plot)


def _write_comparisons(machine: dict, found: list[dict], json: Path | None, plot: Path | None) -> None:
    from clipfast.bench.bench_report import write_picture, write_results

    if json is not None:
        write_results(json, machine, found)
        console.print(f"results: {json}")
    if plot is not None:
        try:
            write_picture(plot, machine, found)
        except ImportError as error:
            stop(error)
        console.print(f"picture: {plot}")


def _batch_sizes(text: str) -> list[int]:
    if any(not size.strip().isdigit() or int(size) < 1 for size in text.split(",")):
        raise typer.BadParameter(f"--sizes must be whole numbers above 0, separated by commas; got {text!r}")
    return [int(size) for size in text.split(",")]


app.command()(plan)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the checkpoint and the pictures.")] = Path("runs/icons"),
    names: Annotated[int, typer.Option(help="Number of icon names.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the initialisation and the data order.")] = 0,
) -> None:
    """Show what the fused loss saves, then train a small CLIP with it on named icons and classify a style it never saw."""
    from clipfast.bench.bench_report import table
    from clipfast.bench.measure import compare
    from clipfast.demo.demo_run import check_installed, run

    try:
        check_installed()
    except ImportError as error:
        stop(error)
    console.print("[bold]What the loss saves[/bold] (python -m clipfast bench has more)")
    with console.status("measuring the dense and the fused loss"):
        comparison = compare(DEFAULT_LOSS, 8192, 512, compiled=False, budget_seconds=6.0)
    console.print(table(comparison))
    console.print("[bold]Training with it[/bold]")
    try:
        run(output, names=names, seed=seed)
    except (OSError, RuntimeError, ValueError) as error:
        stop(error)


@app.command(context_settings={"ignore_unknown_options": True})
def train(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG.toml] [--KEY VALUE]...", help="A file, and keys in place of its own.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on at the newest checkpoint, if there is one.")] = False,
) -> None:
    """Train a model on pairs of pictures and captions, as docs/guides/training_command.md describes.

    Every key of the configuration is a flag too: --batch-size 1024, --optimizer.learning-rate 1e-3. For several processes:
    torchrun --nproc-per-node=N -m clipfast train CONFIG.toml.
    """
    from clipfast.training.run.train_command import first_process, run
    from clipfast.training.settings.parse import ConfigError
    from clipfast.training.step.diagnosis import NotFiniteError

    try:
        lines, status = run(arguments or [], resume)
    except (ConfigError, NotFiniteError) as error:  # the same in every process
        if first_process():
            stop(error)
        raise typer.Exit(1) from error
    except (ImportError, MemoryError, OSError, ValueError) as error:
        stop(error)
    for line in lines:
        console.print(escape(line), soft_wrap=True, highlight=False)
    raise typer.Exit(status)


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Picture files, or folders with pictures.")],
    labels: Annotated[str | None, typer.Option(help="Labels, separated by commas.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="File with one label a line.")] = None,
    templates: Annotated[Path | None, typer.Option(help='File with one prompt a line, such as "a photo of a {}."')] = None,
    model: Annotated[str, typer.Option(help="One of OpenAI's models, or a checkpoint file.")] = "ViT-B/32",
    architecture: Annotated[str | None, typer.Option(help="Model name, for a file with other names than OpenAI's.")] = None,
    sentencepiece: Annotated[Path | None, typer.Option(help="SentencePiece model, for SigLIP.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels for each picture.")] = 1,
    csv: Annotated[Path | None, typer.Option(help="Write the results here instead of printing them.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 32,
    device: Annotated[str | None, typer.Option(help="Where the model runs; the default is a GPU if there is one.")] = None,
) -> None:
    """Say which label each picture fits best.

    Pictures that cannot be read are named and counted; the exit status is 1 only if none could be read.
    """
    from clipfast.hub.pretrained import load
    from clipfast.images.pictures import find_pictures
    from clipfast.inference import classify as work
    from clipfast.inference.zero_shot import DEFAULT_TEMPLATE, ZeroShotClassifier

    try:
        names = work.labels_from(labels, labels_file)
        prompts = [DEFAULT_TEMPLATE] if templates is None else work.read_lines(templates, "templates")
        paths = find_pictures(images)
        network, preprocess = load(model, device, model=architecture)
        classifier = ZeroShotClassifier(network, names, prompts, work.tokenizer_from(sentencepiece, network))
        found = work.classify(paths, classifier, preprocess, top_k, batch_size)
        results = list(track(found, "classifying", len(paths), console=console, transient=True))
        if csv is not None:
            work.write_csv(csv, results)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        stop(error)
    _show(results, csv)


def _show(results: list[Result], csv: Path | None) -> None:
    if csv is None:
        found = Table("picture", "label", "probability")
        found.columns[0].overflow = "fold"  # a path cut short would be useless
        for result in results:
            for i, (label, probability) in enumerate(result.best):
                found.add_row("" if i else escape(str(result.path)), escape(label), f"{probability:.4f}")
        console.print(found)
    else:
        console.print(f"results: {csv}", soft_wrap=True)
    unread = [result for result in results if result.error is not None]
    for result in unread:
        console.print(
            f"[yellow]could not read {escape(str(result.path))}: {escape(str(result.error))}[/yellow]", soft_wrap=True
        )
    if unread:
        console.print(f"{len(unread)} of {len(results)} pictures could not be read")
    if len(unread) == len(results):
        raise typer.Exit(1)
