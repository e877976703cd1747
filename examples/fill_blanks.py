"""Fill blanks: one text, several answers, a list, a stream, and a bad text among good ones."""

import openglm

model = openglm.load()

# Any number of blanks in one text, each as long as it needs to be.
result = model.fill("He was born in [MASK] and lived in New [MASK] until his death.")
print(result.text)
for blank in result.blanks:
    print(f"  {blank.text!r}, characters {blank.start} to {blank.end}, log-probability {blank.logprob:.2f}")

# Several answers, best first.
for answer in model.fill("北京故宫是中国[MASK]非物质文化遗产。", num_beams=4, num_return_sequences=3).answers:
    print(f"{answer.logprob:7.2f}  {answer.text}")

# A stream of texts; what is wrong with one does not stop the others.
texts = ["The capital of France is [MASK].", "There is no blank here.", "水在[MASK]度沸腾。"]
for text, filled in zip(texts, model.fill_iter(texts, on_error="return"), strict=True):
    print(f"{text} -> {filled}")

# Pieces as they are written.
for piece in model.stream("Once upon a time there was a king. [gMASK]", max_new_tokens=20, temperature=0.8, seed=1):
    print(piece.text, end="", flush=True)
print()
