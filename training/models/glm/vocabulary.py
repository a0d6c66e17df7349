"""GLM tokenizers: GPT-2 BPE and BERT WordPiece with GLM's special tokens, and one trained on a catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from training.models.checkpoint import load_tokenizer

SOP, EOP = "<|startofpiece|>", "<|endofpiece|>"
# In the order in which the authors' code appends them to a GPT-2 vocabulary: 50257, 50258, ...
_GPT2_SPECIALS = (SOP, EOP, "[CLS]", "[MASK]", "[SEP]", "[UNK]", "[gMASK]", "[sMASK]", "[dBLOCK]")
_BERT_SPECIALS = (SOP, EOP)
_TRAINED_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[sMASK]", "[gMASK]", SOP, EOP)
_PADDED_TO = 128


@dataclass(frozen=True, slots=True)
class GLMSpecials:
    """Ids of GLM's special tokens; eos is also the padding. Where a vocabulary has one mask, it is all three."""

    cls: int
    mask: int
    eos: int
    sop: int
    eop: int
    segment_mask: int
    document_mask: int


def glm_specials(tokenizer: Tokenizer) -> GLMSpecials:
    """Raises ValueError naming the first special token that the vocabulary lacks."""

    def need(*names: str) -> int:
        found = (tokenizer.token_to_id(name) for name in names)
        token_id = next((i for i in found if i is not None), None)
        if token_id is None:
            raise ValueError(f"the tokenizer has none of {', '.join(names)}; it is not a GLM vocabulary")
        return int(token_id)

    return GLMSpecials(
        cls=need("[CLS]", "<s>"),
        mask=need("[MASK]", "<mask>"),
        eos=need("<|endoftext|>", "[PAD]", "</s>"),
        sop=need(SOP, "<sop>"),
        eop=need(EOP, "<eop>"),
        segment_mask=need("[sMASK]", "[MASK]", "<mask>"),
        document_mask=need("[gMASK]", "[MASK]", "<mask>"),
    )


def padded_vocabulary(tokenizer: Tokenizer) -> int:
    """Rows of the word table, a multiple of 128 as in the authors' checkpoints (GLM-2B: 50266 -> 50304)."""
    return -(-tokenizer.get_vocab_size(with_added_tokens=True) // _PADDED_TO) * _PADDED_TO


def bert_tokenizer(source: Tokenizer) -> Tokenizer:
    """BERT WordPiece with sop and eop appended: 30522 and 30523 on the uncased vocabulary."""
    return _with_specials(source, _BERT_SPECIALS)


def gpt2_tokenizer(vocab_json: Path, merges_txt: Path) -> Tokenizer:
    """GPT-2's byte-level BPE with the nine special tokens of glm-2b and glm-10b behind it."""
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab_json), str(merges_txt)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_specials(tokenizer, ("<|endoftext|>", *_GPT2_SPECIALS))


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 8192) -> Tokenizer:
    """An uncased WordPiece vocabulary learnt from a catalogue, with every special token of GLM."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # The label words must be single tokens whatever the catalogue says.
    texts = [*texts, *(["yes no"] * 1000)]
    # Given beforehand, since the trainer numbers single characters in the order of a hash and breaks ties by
    # number: the same texts would give another vocabulary every time.
    alphabet = sorted(
        {letter for text in texts for letter in tokenizer.normalizer.normalize_str(text)} - {" "}
    )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_TRAINED_SPECIALS, *(f"##{letter}" for letter in alphabet)],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # A fresh model, so that a typed "##a" is text and only the special tokens are special.
    trained = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    trained.decoder = tokenizer.decoder
    trained.add_special_tokens(list(_TRAINED_SPECIALS))
    return trained


def load_glm_tokenizer(folder: Path) -> Tokenizer:
    """`tokenizer.json` where there is one, else `vocab.json` + `merges.txt` (GPT-2) or `vocab.txt` (BERT).

    Raises FileNotFoundError naming what was looked for.
    """
    if (folder / "tokenizer.json").exists():
        tokenizer = load_tokenizer(folder)
        known = tokenizer.token_to_id("<|endoftext|>") is not None
        return _with_specials(tokenizer, _GPT2_SPECIALS if known else _BERT_SPECIALS)
    if (path := folder / "vocab.json").exists():
        return gpt2_tokenizer(path, folder / "merges.txt")
    if (path := folder / "vocab.txt").exists():
        return bert_tokenizer(_word_piece(path))
    raise FileNotFoundError(
        f"{folder}: no tokenizer.json, vocab.json with merges.txt, or vocab.txt; copy the checkpoint's tokenizer there"
    )


def _word_piece(vocab_txt: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece.from_file(str(vocab_txt), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def _with_specials(tokenizer: Tokenizer, names: Iterable[str]) -> Tokenizer:
    """The tokenizer without padding and truncation; `names` it lacks are appended in order."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if tokenizer.token_to_id("<sop>") is None:  # the Chinese checkpoints bring their own names
        tokenizer.add_special_tokens([name for name in names if tokenizer.token_to_id(name) is None])
    return tokenizer
