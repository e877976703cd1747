"""Rank answers that you supply, of any length; and score what somebody wrote."""

import openglm

model = openglm.load()

text = "这家餐厅的菜很好吃，总的来说[MASK]。"
for scored in model.choose(text, ["满意", "失望", "非常满意"]):
    print(f"{scored.probability:6.1%}  {scored.text}")

# Short answers are more probable than long ones: compare the mean over tokens, or what the text adds.
print("mean over tokens:", [each.fills[0] for each in model.choose(text, ["满意", "失望"], length_penalty=1.0)])
print("calibrated:      ", [each.fills[0] for each in model.choose(text, ["满意", "失望"], calibrate=True)])

given = model.score("He lived in New [MASK] and worked in [MASK].", ["York", "London"])
for fill, logprob in zip(given.fills, given.blank_logprobs, strict=True):
    print(f"{logprob:7.2f}  {fill}")
