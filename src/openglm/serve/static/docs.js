// Shows /openapi.json: every route with its fields and answers. Needs nothing from elsewhere.

const EXAMPLES = {
  fill: { text: "The [MASK] of France is Paris.", num_beams: 3, num_return_sequences: 3 },
  choose: { text: "All in all it was [MASK].", choices: ["good", "bad"] },
  score: { text: "Paris is the [MASK] of France.", fills: "capital" },
  classify: { text: "The food was cold and the waiter rude." },
  infill: { input_prefix: "He was born in ", input_suffix: " and died in 1921.", n_predict: 16 },
  generate: { model: "default", prompt: "He was born in ", suffix: " and died in 1921.", stream: false },
  fim: { model: "default", prompt: "He was born in ", suffix: " and died in 1921.", max_tokens: 16 },
  complete: { model: "default", prompt: "Once upon a time", suffix: " and they lived happily.", max_tokens: 16 },
};

function make(tag, className, ...inside) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...inside);
  return element;
}

let schemas = {};

function named(reference) {
  return reference.split("/").pop();
}

function kindOf(schema) {
  if (schema.$ref) return named(schema.$ref);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(kindOf).join(" | ");
  if (schema.type === "array") return `list of ${kindOf(schema.items || {})}`;
  return schema.type || "anything";
}

function remarks(schema) {
  const bounds = [
    [schema.minimum, "at least "], [schema.exclusiveMinimum, "above "], [schema.maximum, "at most "], [schema.minItems, "items: at least "],
  ].filter(([value]) => value !== undefined && value < 2 ** 31).map(([value, words]) => words + value);
  if (schema.default !== undefined && schema.default !== null) bounds.push(`default ${JSON.stringify(schema.default)}`);
  return [schema.description, bounds.join(", ")].filter(Boolean).join(" — ");
}

function fields(name) {
  const schema = schemas[name];
  const table = make("table");
  for (const [field, value] of Object.entries(schema.properties || {})) {
    const label = make("td", "", make("code", "", field));
    if ((schema.required || []).includes(field)) label.append(make("span", "need", " *"));
    table.append(make("tr", "", label, make("td", "", make("code", "", kindOf(value))), make("td", "", remarks(value))));
  }
  return table;
}

function example(path, method, operation) {
  const body = EXAMPLES[operation.operationId];
  const lines = [`curl ${location.origin}${path}`];
  if (operation.security) lines[0] += " -H 'Authorization: Bearer KEY'";
  if (body) lines[0] += " -H 'Content-Type: application/json' \\", lines.push(`  -d '${JSON.stringify(body)}'`);
  return make("pre", "", make("code", "", lines.join("\n")));
}

function answers(operation) {
  const table = make("table");
  for (const [status, response] of Object.entries(operation.responses)) {
    const content = Object.entries(response.content || {}).map(([type, { schema }]) => (type === "application/json" ? kindOf(schema) : type));
    table.append(make("tr", "", make("td", "", make("code", "", status)), make("td", "", make("code", "", content.join(", "))), make("td", "", response.description)));
  }
  return table;
}

// The schemas that a body may have; one without a name of its own has no table.
function alternatives(body) {
  const schema = body?.content?.["application/json"]?.schema;
  return schema ? schema.anyOf || [schema] : [];
}

function fieldsOf(schema) {
  return schema.$ref ? [fields(named(schema.$ref))] : [];
}

function route(path, method, operation) {
  const inside = make("div", "inside", example(path, method, operation));
  for (const schema of alternatives(operation.requestBody)) inside.append(make("h3", "", `Body: ${kindOf(schema)}`), ...fieldsOf(schema));
  for (const schema of alternatives(operation.responses["200"])) inside.append(make("h3", "", `Answer: ${kindOf(schema)}`), ...fieldsOf(schema));
  inside.append(make("h3", "", "Statuses"), answers(operation));
  const title = make("summary", "", make("span", "method", method.toUpperCase()), make("code", "", path), make("span", "quiet", operation.summary));
  const details = make("details", "route", title, inside);
  details.id = operation.operationId;
  return details;
}

const api = await (await fetch("/openapi.json")).json();
schemas = api.components.schemas;
document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}.`;
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(methods)) document.getElementById("docs").append(route(path, method, operation));
}
const others = ["FillAnswer", "FilledAnswer", "FilledText", "Ranked", "Ranking", "Label", "OllamaOptions", "CompletionChoice", "CompletionLogprobs", "Usage", "ErrorBody"].filter((name) => schemas[name]);
const types = make("div", "inside");
for (const name of others) types.append(make("h3", "", name), fields(name));
document.getElementById("docs").append(make("details", "route", make("summary", "", "Types"), types));
if (location.hash) document.querySelector(location.hash)?.setAttribute("open", "");
