"""An openglm folder in transformers: Auto classes, `generate`, and the same tokens as `fill`."""

import tempfile

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import openglm
import openglm.integrations.transformers
from openglm.checkpoints.find import EMBEDDED

tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
model = AutoModelForSeq2SeqLM.from_pretrained(EMBEDDED, dtype=torch.float32)

text = "He lived in New [MASK] until his death."
batch = tokenizer([text], return_tensors="pt")
written = model.generate(**batch, max_new_tokens=8, num_beams=4, length_penalty=0.0)
print("generate:", [one.strip() for one in tokenizer.batch_decode(written, skip_special_tokens=True)])

filled = openglm.load(dtype="float32").fill(text, max_new_tokens=8, num_beams=4, length_penalty=0.0)
print("fill:    ", [filled.blanks[0].text])

# What transformers saves, openglm loads.
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print("again:   ", [openglm.load(folder, dtype="float32").fill(text, max_new_tokens=8, num_beams=4).blanks[0].text])
