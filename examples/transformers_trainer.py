"""Train the embedded model with transformers' own trainer, then fill with what it saved.

    python examples/transformers_trainer.py runs/questions

Needs `pip install 'openglm[transformers]' accelerate`.
"""

from __future__ import annotations

import sys

from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

import openglm
from openglm.integrations.transformers import from_pretrained

PAIRS = [
    ("The capital of France is [MASK].", " Paris"),
    ("The capital of Italy is [MASK].", " Rome"),
    ("The capital of Japan is [MASK].", " Tokyo"),
    ("中国的首都是[MASK]。", "北京"),
]


def main(folder: str) -> None:
    """Train for twenty updates, save, load, fill."""
    model, tokenizer = from_pretrained("default")
    rows = [{**tokenizer(text), "labels": tokenizer(text_target=fill)["input_ids"]} for text, fill in PAIRS]
    settings = Seq2SeqTrainingArguments(
        output_dir=folder, max_steps=20, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=5,
        save_steps=20, report_to=[], use_cpu=True,
    )  # fmt: skip
    trainer = Seq2SeqTrainer(
        model, settings, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    filler = openglm.load(f"{folder}/checkpoint-20")
    for filled in filler.fill([text for text, _ in PAIRS], max_new_tokens=4):
        print(filled.text)


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["runs/questions"])
