// Takes what is published as a program in Node would: as the npm package, by its name. Says which
// files are not those of LOCK, and hands on schemas and golden texts for reader.mjs and wire.mjs.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.argv[2] + "/");
const path = (name) => require.resolve(`palace-contract/${name}`);
const digest = (name) => createHash("sha256").update(readFileSync(path(name))).digest("hex");

const broken = [];
const names = [];
for (const line of readFileSync(path("LOCK"), "utf8").trim().split("\n")) {
  const [told, name] = line.split("  ");
  if (name === "pyproject.toml") continue; // is for the wheel
  names.push(name);
  if (digest(name) !== told) broken.push(name);
}
const schemas = { ...require("palace-contract/memory-plugin-v1.schemas.json") };
const cases = { valid: [], invalid: [] };
for (const name of names.filter((name) => name.startsWith("golden/") && !name.includes("wire"))) {
  const golden = require(`palace-contract/${name}`);
  for (const kind of ["valid", "invalid"]) cases[kind].push(...golden[kind]);
  if (golden.document.endsWith(".schema.json")) {
    schemas[golden.valid[0].schema] = require(`palace-contract/${golden.document}`);
  }
}
const wire = require("palace-contract/golden/wire-v1.json");
console.log(JSON.stringify({ broken, names, schemas, cases, wire }));
