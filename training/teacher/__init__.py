"""The teacher of reading comprehension distillation: writes rcd.jsonl through any OpenAI-compatible endpoint."""
