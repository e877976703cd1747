"""An adapter trained by PEFT on openglm's network, put to use by openglm."""

import tempfile

import torch
from peft import LoraConfig, get_peft_model

import openglm
from openglm.checkpoints.find import EMBEDDED
from openglm.finetuning.adapter_files import load_adapter
from openglm.integrations.transformers import from_pretrained

TEXT, ANSWER = "我们的口号是[MASK]。", "天天向上"

torch.manual_seed(0)
model, tokenizer = from_pretrained(EMBEDDED)
tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["query_key_value", "dense"]))
batch = tokenizer([TEXT], text_target=[ANSWER], return_tensors="pt")
optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
for _ in range(20):
    loss = tuned(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"loss after 20 updates: {loss.item():.3f}")

with tempfile.TemporaryDirectory() as folder:
    tuned.save_pretrained(folder)
    infiller = openglm.load(dtype="float32")
    print("before:", infiller.fill(TEXT, max_new_tokens=8).text)
    load_adapter(infiller, folder)
    print("after: ", infiller.fill(TEXT, max_new_tokens=8).text)
