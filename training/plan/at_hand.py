"""What a config asks for and what is on this disk: a stand-in for counting where something is not, said by name.

Fetches nothing. Stand-ins are for counting only; a real run still wants what its config names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from training.config import ConfigError, RunConfig
from training.families import Family, open_family
from training.families.glm import NAMED
from training.models.checkpoint import minilm_path
from training.models.embedding import MINILM, Embedder, MiniLmEmbedder, open_embedder
from training.models.glm.config import SIZES, GLMConfig, named_config
from training.models.glm.vocabulary import padded_vocabulary
from training.plan.anatomy import Anatomy, encoder_anatomy, glm_anatomy

_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")
_WEIGHTS = ("*.safetensors", "*.bin")
_MINILM_TOKENS = "all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class Start:
    """The family to count with, and what it stands in for."""

    family: Family
    tokenizer: str
    missing: tuple[str, ...]


def open_start(config: RunConfig) -> Start:
    """The configured family, or the same family on MiniLM's vocabulary where its tokenizer is not at hand."""
    if config.start is None or config.start in NAMED:
        return Start(open_family(config), _MINILM_TOKENS, ())
    folder = Path(config.start)
    missing = []
    if not (folder / "config.json").is_file():
        missing.append(f"start checkpoint {folder}: no config.json; sizes are those of {_stand_in(config)}")
    elif not any(found for pattern in _WEIGHTS for found in folder.glob(pattern)):
        missing.append(f"start checkpoint {folder}: no weights (*.safetensors or *.bin)")
    wanted = _TOKENIZERS if config.family == "glm" else _TOKENIZERS[:1]
    if any((folder / name).is_file() for name in wanted):
        return Start(open_family(config), str(folder), tuple(missing))
    missing.append(f"tokenizer of {folder}: not there; tokens are counted with {_MINILM_TOKENS}'s vocabulary")
    # MiniLM's vocabulary has other words in one piece than the missing one.
    changes = {"start": None, "label_words": ("yes", "no")}
    return Start(open_family(config.model_copy(update=changes)), _MINILM_TOKENS, tuple(missing))


def anatomy_of(config: RunConfig, family: Family, *, segments: int) -> Anatomy:
    """Sizes from the start folder's config.json, else from the size that the start names."""
    folder = Path(config.start) if config.start else None
    known = folder is not None and (folder / "config.json").is_file()
    if config.family == "encoder":
        name = str(folder) if known else _MINILM_TOKENS
        return encoder_anatomy(name, folder if folder and known else minilm_path(), segments=segments)
    if folder and known:
        return glm_anatomy(str(folder), GLMConfig.from_pretrained(folder, segment_count=segments))
    size = _stand_in(config)
    sizes: dict[str, int] = {"segment_count": segments}
    if "vocab_size" not in SIZES[size]:
        sizes["vocab_size"] = padded_vocabulary(family.tokenizer)
    return glm_anatomy(size, named_config(size, **sizes))


def open_filter(name: str) -> tuple[Embedder, str, str | None]:
    """ICP's embedder, its name, and what is missing: a hub model counts as at hand when it is in the local cache."""
    if name == MINILM or (Path(name) / "config.json").is_file():
        return open_embedder(name), name, None
    if snapshot := _cached(name):
        return open_embedder(snapshot), name, None
    said = f"ICP embedder {name}: not on this disk; pairs are filtered with all-MiniLM-L6-v2 instead"
    return MiniLmEmbedder(), MINILM, said


def _stand_in(config: RunConfig) -> str:
    """Raises ConfigError when the last part of a missing start path is no known size."""
    if config.family == "encoder":
        return _MINILM_TOKENS
    size = Path(config.start or "glm-small").name
    if size not in SIZES:
        known = ", ".join(SIZES)
        raise ConfigError(
            f"start: {config.start} is not there, and {size!r} is no known size ({known}) to plan with"
        )
    return size


def _cached(hub_name: str) -> str | None:
    if Path(hub_name).is_absolute() or hub_name.count("/") > 1:
        return None
    config = try_to_load_from_cache(hub_name, "config.json")
    weights = (try_to_load_from_cache(hub_name, name) for name in ("model.safetensors", "pytorch_model.bin"))
    return (
        str(Path(config).parent)
        if isinstance(config, str) and any(isinstance(w, str) for w in weights)
        else None
    )
