"""sentence-transformers' own CrossEncoder and trainer, as its documentation uses them: the yardstick of ours.

Only what must be equal is ours: start weights, labelled pairs, targets, longest pair, seed and token budget.
Loss, learning rate, warm-up, batch size, dropout, decay and sampling are the library's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model_repo.text import canonical_text
from training.baselines.budget import IntArray, rows_within_budget, targets, training_pairs
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.pairs import LabelledPair
from training.models.checkpoint import minilm_path
from training.models.embedding import Embedder

# The arguments shown in the library's training overview; its examples differ in batch size only (16 to 64).
_BATCH, _LEARNING_RATE, _WARMUP = 16, 2e-5, 0.1


def cross_encoder(
    dataset: Dataset, config: RunConfig, embed: Embedder
) -> Callable[[Sequence[LabelledPair]], npt.NDArray[np.float32]]:
    """Fine-tune a cross-encoder on labels.train; return what gives the logit of each pair.

    Starts where the encoder family does. Writes to a folder that is gone afterwards, asks no server.
    """
    from sentence_transformers import CrossEncoder

    start = Path(config.start) if config.start and config.family == "encoder" else minilm_path()
    torch.manual_seed(config.seed)  # the new classifier's weights
    model = CrossEncoder(str(start), num_labels=1, max_length=config.render.max_tokens, local_files_only=True)
    pairs = training_pairs(dataset, config)
    lengths = pair_lengths(dataset, pairs, model.tokenizer, max_tokens=config.render.max_tokens)
    rows = rows_within_budget(lengths, config.sft.optimiser.tokens, seed=config.seed)
    _fit(model, dataset, [pairs[row] for row in rows], targets(pairs, dataset, config)[rows], config.seed)

    def score(pairs: Sequence[LabelledPair]) -> npt.NDArray[np.float32]:
        logits = model.predict(
            _texts(dataset, pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return np.asarray(logits, dtype=np.float32)

    return score


def pair_lengths(
    dataset: Dataset, pairs: Sequence[LabelledPair], tokenizer: Any, *, max_tokens: int
) -> IntArray:
    """Tokens of each pair as the model reads it; every text is tokenised once."""
    texts = list(dict.fromkeys(text for pair in _texts(dataset, pairs) for text in pair))
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    known = {text: len(tokens) for text, tokens in zip(texts, ids, strict=True)}
    special = tokenizer.num_special_tokens_to_add(pair=True)
    whole = [known[query] + known[item] + special for query, item in _texts(dataset, pairs)]
    return np.minimum(np.array(whole, dtype=np.int64), max_tokens)


def _fit(
    model: Any, dataset: Dataset, pairs: Sequence[LabelledPair], labels: npt.NDArray[np.float32], seed: int
) -> None:
    """One pass over `pairs`, which hold every epoch that the budget pays for."""
    from datasets import Dataset as Table
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers import PrinterCallback

    queries, items = zip(*_texts(dataset, pairs), strict=True)
    table = Table.from_dict({"query": queries, "item": items, "label": labels})
    with TemporaryDirectory() as scratch:
        arguments = CrossEncoderTrainingArguments(
            output_dir=scratch,
            num_train_epochs=1,
            per_device_train_batch_size=_BATCH,
            learning_rate=_LEARNING_RATE,
            warmup_steps=_WARMUP,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=not sys.stderr.isatty(),
        )
        trainer = CrossEncoderTrainer(
            model=model, args=arguments, train_dataset=table, loss=BinaryCrossEntropyLoss(model)
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()


def _texts(dataset: Dataset, pairs: Sequence[LabelledPair]) -> list[tuple[str, str]]:
    items = {item_id: dataset.item_text(item_id) for item_id in {pair.item_id for pair in pairs}}
    return [(canonical_text(pair.query), items[pair.item_id]) for pair in pairs]
