"""A classifier from eight labelled reviews, by a question with a blank; then labels for new ones."""

import json
import tempfile
from pathlib import Path

import openglm
from openglm.finetuning.classifier import load_classifier

TRAIN = [
    ("菜很新鲜，下次还来。", "好评"),
    ("味道不错，服务也热情。", "好评"),
    ("环境干净，价格公道。", "好评"),
    ("老板很好，上菜很快。", "好评"),
    ("等了一个小时，菜是凉的。", "差评"),
    ("又贵又难吃，不会再来。", "差评"),
    ("服务态度太差了。", "差评"),
    ("桌子很脏，没有人管。", "差评"),
]

with tempfile.TemporaryDirectory() as folder:
    train = Path(folder, "train.jsonl")
    train.write_text(
        "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in TRAIN),
        encoding="utf-8",
    )
    result = openglm.finetune(
        "cloze",
        train,
        pattern="{text} 总的来说[MASK]。",
        verbalizer={"好评": "满意", "差评": "失望"},
        output=Path(folder, "run"),
        settings={"run.epochs": 3},
        quiet=True,
    )
    classify = load_classifier(result.model)
    new = ["菜很好吃，服务很好。", "太差了，很失望。"]
    for text, answer in zip(new, classify.predict([{"text": text} for text in new]), strict=True):
        print(f"{answer.label}  {answer.probabilities[answer.label]:.0%}  {text}")
