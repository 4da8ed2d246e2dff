"""The training processes of tests/benchmarks/resume.py: a small model under each library, and ours with a stopwatch.

    python tests/benchmarks/resume_workers.py hf --folder /tmp/hf --tokens tokens.npy --rows 4096 --save_steps 100
    python tests/benchmarks/resume_workers.py hf --folder /tmp/hf --tokens tokens.npy --rows 4096 --resume
    python tests/benchmarks/resume_workers.py ours --folder /tmp/ours train --train_file app.log --num_epochs 3

Each library is used as its documentation says: seeded, with the data order restored where it offers that. Every peer
writes a line a step to `metrics.jsonl` as soon as the optimizer has stepped, as our trainer does, and its last weights
to `final.safetensors`. `saves.jsonl` gets a line each time that training waits for saving, with the seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LEARNING_RATE, SEED, DIM, N_EVENTS = 2e-3, 42, 64, 64


class Lines:
    """A file of JSON lines, each on disk when `add` returns (without an fsync)."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def add(self, **values: float | str) -> None:
        os.write(self._descriptor, (json.dumps(values) + "\n").encode())


@contextmanager
def stopwatch(saves: Lines, what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    saves.add(what=what, seconds=time.perf_counter() - begun)


def main() -> None:
    """Train with the library that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    libraries = parser.add_subparsers(dest="library", required=True)
    for name in ("ours", *LIBRARIES):
        library = libraries.add_parser(name)
        library.add_argument("--folder", type=Path, required=True, help="checkpoints, metrics.jsonl and saves.jsonl")
        if name == "ours":
            library.add_argument("command", nargs=argparse.REMAINDER, help="a command of ai-detect with its flags")
            continue
        library.add_argument("--tokens", type=Path, required=True, help=".npy of (n_samples, length) integers below 64")
        library.add_argument("--rows", type=int, required=True, help="rows of the embedding: the size of the model")
        library.add_argument("--batch_size", type=int, default=128)
        library.add_argument("--num_epochs", type=int, default=1)
        library.add_argument("--save_steps", type=int, help="a checkpoint every so many steps")
        library.add_argument("--save_at", type=int, nargs="*", default=[], help="checkpoints at just these steps")
        library.add_argument("--resume", action="store_true", help="from the newest checkpoint")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.library == "ours":
        sys.exit(ours(arguments.folder, arguments.command))
    LIBRARIES[arguments.library](arguments)


def ours(folder: Path, command: list[str]) -> int:
    """The real command, with the whole training, and what it waits for its saves, timed from outside."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from ai_detect.cli import main as cli
    from ai_detect.cli import training_run
    from ai_detect.training import trainer

    saves, within = Lines(folder / "saves.jsonl"), list[str]()

    def timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            if within:  # one of these calls another: its seconds count once
                return function(*positional, **named)
            within.append(what)
            try:
                with stopwatch(saves, what):
                    return function(*positional, **named)
            finally:
                within.clear()

        return call

    # save begins one, collect learns what became of it, finish waits for the last: all on the training thread
    run: Any = trainer._Run
    for what in ("save", "collect", "finish"):
        setattr(run, what, timed(what, getattr(run, what)))
    module: Any = training_run
    train = module.train

    def timed_train(*positional: Any, **named: Any) -> Any:
        with stopwatch(saves, "train"):
            return train(*positional, **named)

    module.train = timed_train
    return cli.main(command)


def _model_and_data(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """A transformer of about the size of our encoder that predicts the next event, with dropout; and its samples."""
    import numpy as np
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.events = nn.Embedding(arguments.rows, DIM)
            self.block = nn.TransformerEncoderLayer(DIM, 4, 2 * DIM, dropout=0.1, batch_first=True, norm_first=True)
            self.predict = nn.Linear(DIM, N_EVENTS)

        def forward(self, tokens: Any) -> dict[str, Any]:
            mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1] - 1)
            logits = self.predict(self.block(self.events(tokens[:, :-1]), src_mask=mask, is_causal=True))
            return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())}

    class Samples(torch.utils.data.Dataset[dict[str, Any]]):
        def __init__(self) -> None:
            self.tokens = np.load(arguments.tokens, mmap_mode="r")

        def __len__(self) -> int:
            return len(self.tokens)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"tokens": torch.from_numpy(self.tokens[index].astype(np.int64))}

    torch.manual_seed(SEED)
    return Model(), Samples()


def _n_steps(arguments: argparse.Namespace, samples: Any) -> int:
    epochs: int = arguments.num_epochs
    return math.ceil(len(samples) / arguments.batch_size) * epochs


def _newest(folder: Path) -> Path:
    """The checkpoint of the largest step."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := re.match(r"checkpoint-(\d+)", path.name))}
    return found[max(found)]


def _save_weights(model: Any, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "final.safetensors")


def hf(arguments: argparse.Namespace) -> None:
    """Hugging Face Trainer: `resume_from_checkpoint=True`, which also skips to the place in the epoch."""
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    set_seed(SEED)
    model, samples = _model_and_data(arguments)
    metrics, saves = Lines(arguments.folder / "metrics.jsonl"), Lines(arguments.folder / "saves.jsonl")

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            metrics.add(step=state.global_step)
            if state.global_step in arguments.save_at:
                control.should_save = True

    class TimedTrainer(Trainer):
        def _save_checkpoint(self, *positional: Any, **named: Any) -> None:
            with stopwatch(saves, "save"):
                super()._save_checkpoint(*positional, **named)

    settings = TrainingArguments(
        output_dir=str(arguments.folder),
        num_train_epochs=arguments.num_epochs,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=LEARNING_RATE,
        save_strategy="steps" if arguments.save_steps else "no",
        save_steps=arguments.save_steps or 500,
        seed=SEED,
        data_seed=SEED,
        use_cpu=True,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = TimedTrainer(model=model, args=settings, train_dataset=samples, callbacks=[Steps()])
    trainer.train(resume_from_checkpoint=True if arguments.resume else None)
    _save_weights(model, arguments.folder)


def lightning(arguments: argparse.Namespace, *, stateful: bool = False) -> None:
    """Lightning: `fit(ckpt_path=...)`, with a loader that has a state where `stateful`."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint

    if stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader as Loader
    else:
        from torch.utils.data import DataLoader as Loader

    seed_everything(SEED, workers=True)
    model, samples = _model_and_data(arguments)
    metrics, saves = Lines(arguments.folder / "metrics.jsonl"), Lines(arguments.folder / "saves.jsonl")
    n_steps = _n_steps(arguments, samples)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, _: int) -> Any:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), LEARNING_RATE)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / n_steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    class Steps(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            metrics.add(step=trainer.global_step)
            if trainer.global_step in arguments.save_at:
                trainer.save_checkpoint(arguments.folder / f"checkpoint-{trainer.global_step}.ckpt")

    class TimedCheckpoint(ModelCheckpoint):
        def _save_checkpoint(self, *positional: Any, **named: Any) -> None:
            with stopwatch(saves, "save"):
                super()._save_checkpoint(*positional, **named)

    callbacks: list[Any] = [Steps()]
    if arguments.save_steps:
        name = {"filename": "checkpoint-{step}", "auto_insert_metric_name": False, "save_top_k": -1}
        callbacks.append(
            TimedCheckpoint(dirpath=arguments.folder, every_n_train_steps=arguments.save_steps, **name)  # type: ignore[arg-type]
        )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=arguments.num_epochs,
        deterministic=True,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(arguments.save_steps),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=arguments.folder,
    )
    loader = Loader(samples, batch_size=arguments.batch_size, shuffle=True)
    newest = _newest(arguments.folder) if arguments.resume else None
    trainer.fit(Module(), loader, ckpt_path=newest)
    _save_weights(model, arguments.folder)


def lightning_stateful(arguments: argparse.Namespace) -> None:
    """Lightning with torchdata's loader, whose state it saves and restores."""
    lightning(arguments, stateful=True)


def accelerate(arguments: argparse.Namespace) -> None:
    """accelerate: `save_state` and `load_state`, a sampler that can be seeded, `skip_first_batches` on resume."""
    import torch
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.utils import set_seed

    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    set_seed(SEED)
    model, samples = _model_and_data(arguments)
    metrics, saves = Lines(arguments.folder / "metrics.jsonl"), Lines(arguments.folder / "saves.jsonl")
    n_steps = _n_steps(arguments, samples)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / n_steps)
    loader = torch.utils.data.DataLoader(samples, batch_size=arguments.batch_size, shuffle=True)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    step = 0
    if arguments.resume:
        newest = _newest(arguments.folder)
        accelerator.load_state(str(newest))
        step = int(newest.name.removeprefix("checkpoint-"))
    first_epoch, n_done = divmod(step, len(loader))
    for epoch in range(first_epoch, arguments.num_epochs):
        loader.set_epoch(epoch)
        skipping = epoch == first_epoch and n_done
        for batch in accelerator.skip_first_batches(loader, n_done) if skipping else loader:
            loss = model(**batch)["loss"]
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            metrics.add(step=step)
            if step in arguments.save_at or (arguments.save_steps and step % arguments.save_steps == 0):
                with stopwatch(saves, "save"):
                    accelerator.save_state(str(arguments.folder / f"checkpoint-{step}"))
    _save_weights(accelerator.unwrap_model(model), arguments.folder)


LIBRARIES: dict[str, Callable[[argparse.Namespace], None]] = {
    "hf": hf,
    "lightning": lightning,
    "lightning-stateful": lightning_stateful,
    "accelerate": accelerate,
}

if __name__ == "__main__":
    main()
