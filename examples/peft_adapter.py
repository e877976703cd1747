"""Train an adapter with PEFT on openglm's network, then put it on with openglm.

    python examples/peft_adapter.py runs/adapter

Needs `pip install openglm peft`.
"""

from __future__ import annotations

import sys

import torch
from peft import LoraConfig, get_peft_model

import openglm
from openglm.finetuning.adapter_files import load_adapter
from openglm.integrations.transformers import from_pretrained

TEXT, FILL = "The capital of France is [MASK].", " Paris"


def main(folder: str) -> None:
    """Train for thirty updates, save, load, fill."""
    model, tokenizer = from_pretrained("default")
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["query_key_value", "dense"]))
    batch = tokenizer(TEXT, return_tensors="pt")
    labels = tokenizer(text_target=FILL, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = adapted(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
    adapted.save_pretrained(folder)
    filler = openglm.load(dtype="float32")
    load_adapter(filler, folder)
    print(f"loss {loss.item():.3f}: {filler.fill(TEXT, max_new_tokens=4).text}")


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["runs/adapter"])
