"""The 2021 GLM: configuration, model, heads, tokenizers, checkpoint folders."""
