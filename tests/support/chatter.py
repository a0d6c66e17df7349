"""A language model of a few hundred kilobytes that writes completions, served by `transformers serve`.

A bigram model in the shape of Llama: attention and MLP are zero, every token embeds as itself, and the output layer
holds the logits of the next token. Its vocabulary is bytes and ready pieces of completions, so sampling from it gives
valid answers of varying text, refusals, and JSON that breaks off, from real weights over real HTTP.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx2
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

START, END = "<|assistant|>", "<|end|>"
REFUSAL, BROKEN = "I'm sorry, but I cannot describe this item.", '{"summary": "It breaks'
_OPEN, _QUERIES, _CLOSE = '{"summary": "', '", "queries": [{"query": "', '"}]}'
_EXPLAIN = '", "explanation": "'
_SUBJECTS = ["A pocket service that ", "An online desk that ", "A small program that ", "A helper that "]
_VERBS = ["pays the bills of ", "keeps the books of ", "plans the days of ", "finds a ride for "]
_OBJECTS = ["a shared house", "a busy family", "a shop with staff", "people who travel", "a whole village"]
_NEEDS = ["split the rent", "who owes me", "cheap ride home", "plan my week", "lost my receipt"]
_BECAUSE = ["it does this in one step", "that is its main purpose", "members ask for it daily"]


def _next_pieces() -> dict[str, list[str]]:
    """What may follow each piece; nine answers in eleven are whole."""
    follow = {START: [_OPEN] * 9 + [REFUSAL, BROKEN], REFUSAL: [END], BROKEN: [END], _CLOSE: [END]}
    follow |= {_OPEN: _SUBJECTS, _QUERIES: _NEEDS, _EXPLAIN: _BECAUSE}
    chains = [(_SUBJECTS, _VERBS), (_VERBS, _OBJECTS), (_OBJECTS, [_QUERIES])]
    chains += [(_NEEDS, [_EXPLAIN]), (_BECAUSE, [_CLOSE])]
    return follow | {piece: after for pieces, after in chains for piece in pieces}


def save_chatter(folder: Path) -> Path:
    """Write model and tokenizer as a checkpoint folder."""
    follow = _next_pieces()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: n for n, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in follow if piece != START])
    tokenizer.add_special_tokens([START, END])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}" + START
    fast.save_pretrained(folder)
    _bigram_model(tokenizer, follow).save_pretrained(folder)
    return folder


def _bigram_model(tokenizer: Tokenizer, follow: dict[str, list[str]]) -> LlamaForCausalLM:
    size = tokenizer.get_vocab_size() + tokenizer.get_vocab_size() % 2
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(END),
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.fill_(-1.0)
        for piece, after in follow.items():
            for one in set(after):
                # The final norm scales a one-hot vector to sqrt(size); log n makes n entries n times as likely.
                logit = 40.0 + torch.log(torch.tensor(float(after.count(one))))
                row, column = tokenizer.token_to_id(one), tokenizer.token_to_id(piece)
                model.lm_head.weight[row, column] = logit / size**0.5
    model.generation_config.update(do_sample=True, temperature=1.0, top_k=0, eos_token_id=config.eos_token_id)
    return model


class ServedChatter:
    """`transformers serve` on a loopback port, as a process of its own; ended by `stop`."""

    def __init__(self, model: Path, port: int, log: Path) -> None:
        self.model, self.url, self._log = str(model), f"http://127.0.0.1:{port}/v1", log
        command = [str(Path(sys.executable).with_name("transformers")), "serve", self.model]
        options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--default-seed", "0"]
        environment = {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin",
            "HOME": str(log.parent),
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command + options, stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    def wait_until_ready(self, seconds: float = 120) -> None:
        """Raises RuntimeError with the server's log when it does not come up."""
        for _ in range(int(seconds / 0.2)):
            try:
                if httpx2.get(self.url.removesuffix("/v1") + "/health", timeout=1).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise RuntimeError(f"transformers serve did not start:\n{self._log.read_text()[-3000:]}")

    def completions(self) -> int:
        """Requests answered since the start."""
        return self._log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200')

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
