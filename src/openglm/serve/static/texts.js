// What the page says, in English and Chinese, and the examples it offers.

export const TEXTS = {
  en: {
    other: "中文", api: "API", theme: "Light or dark", fill: "Fill", choose: "Choose", classify: "Classify",
    textLabel: "A text with blanks", word: "words", sentence: "sentences", passage: "passage", go: "Fill", stop: "Stop",
    options: "Options", temperature: "Temperature", topP: "Top p", seed: "Seed", maxTokens: "Most tokens",
    temperatureHint: "At temperature 0 the most probable words are written; above 0 they are drawn, the same ones for the same seed.",
    blankFor: "Put in a blank for",
    blanksHint: "Words: a few of them, inside a sentence. Sentences: one or more whole ones. Passage: the text goes on from there.",
    result: "Filled", copy: "Copy", copied: "Copied",
    hint: "Click a fill to see what else the model would write there.",
    alternatives: "Blank {n}: what else fits", loading: "Looking …", own: "Your own words", use: "Use", release: "Fill this one again", close: "Close",
    questionLabel: "A text with a blank", choicesLabel: "Answers, one per line", choicesHint: "For several blanks: one word per blank, separated by |",
    calibrate: "Do not favour answers that are common everywhere", rank: "Rank",
    label: "Label", noText: "Write a text first.",
    noBlank: "Put a blank into the text first.", writing: "Writing …", done: "{tokens} tokens in {seconds} s", stopped: "Stopped",
    cutOff: "A fill reached its limit of tokens.", truncated: "The text is longer than the model's context.",
    noChoices: "Give at least two answers.", ranked: "{seconds} s",
    keyLabel: "This server wants a key", keySet: "Use it", offline: "The server does not answer.", empty: "(nothing)",
    blankName: "Blank {n}: {text}",
  },
  zh: {
    other: "English", api: "接口", theme: "浅色或深色", fill: "填空", choose: "选择", classify: "分类",
    textLabel: "带空的文字", word: "词语", sentence: "句子", passage: "段落", go: "填写", stop: "停止",
    options: "选项", temperature: "温度", topP: "Top p", seed: "随机种子", maxTokens: "最多词元数",
    temperatureHint: "温度为 0 时写入最可能的词语；大于 0 时随机抽取，种子相同则结果相同。",
    blankFor: "插入一个空，用来填",
    blanksHint: "词语：句子里的几个词。句子：一个或几个完整的句子。段落：从这里接着往下写。",
    result: "填写结果", copy: "复制", copied: "已复制",
    hint: "点击填入的文字，可以看到模型还会写什么。",
    alternatives: "第 {n} 空：还可以填", loading: "正在查找……", own: "自己填写", use: "采用", release: "重新填写此空", close: "关闭",
    questionLabel: "带空的文字", choicesLabel: "候选答案，每行一个", choicesHint: "有多个空时，每空一词，用 | 分开",
    calibrate: "不偏向到处都常见的答案", rank: "排序",
    label: "分类", noText: "请先写一段文字。",
    noBlank: "请先在文字里放一个空。", writing: "正在填写……", done: "{tokens} 个词元，{seconds} 秒", stopped: "已停止",
    cutOff: "有的填空达到了词元上限。", truncated: "文字超过了模型的上下文长度。",
    noChoices: "请至少给出两个答案。", ranked: "{seconds} 秒",
    keyLabel: "此服务器需要密钥", keySet: "使用", offline: "服务器没有回应。", empty: "（空）",
    blankName: "第 {n} 空：{text}",
  },
};

export const EXAMPLES = {
  en: [
    "The [MASK] of the United States lives in the White House.",
    "The film was released in the United [MASK] in [MASK] and became a [MASK].",
    "He was born in London. [sMASK] He died in 1921.",
  ],
  zh: [
    "北京故宫是中国[MASK]文化遗产。",
    "该车站位于[MASK]，是一座[MASK]的铁路车站，于[MASK]启用。",
    "长江是亚洲第一长河。[sMASK]",
  ],
};

export const QUESTIONS = {
  en: ["The film was boring and far too long. All in all it was [MASK].", "good\nbad"],
  zh: ["这家餐厅的菜很好吃，总的来说[MASK]。", "满意\n失望"],
};
