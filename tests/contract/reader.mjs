// Reads the golden texts as a client in Node would: JSON.parse, and the document's schemas by ajv.
// What JavaScript can't see after JSON.parse (a name that was there twice, a depth) it looks for
// in the text, as the folder's README says.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { crc32 } from "node:zlib";

const require = createRequire(process.argv[2] + "/");
const Ajv = require("ajv");
const { schemas, cases } = JSON.parse(readFileSync(0, "utf8"));
const ajv = new Ajv({ strict: false, unicodeRegExp: false });
const validators = Object.fromEntries(
  Object.entries(schemas).map(([name, schema]) => [name, ajv.compile(schema)]),
);

function isInstant(text) {
  const days = new Date(Date.UTC(Number(text.slice(0, 4)), Number(text.slice(5, 7)), 0)).getUTCDate();
  const year = new Date(text.toUpperCase()).getUTCFullYear();
  return Number(text.slice(8, 10)) <= days && year >= 1 && year <= 9999;
}

function check(value, depth) {
  if (depth > 64) throw new Error("nested too deeply");
  if (typeof value === "string" && !value.isWellFormed()) throw new Error("half a surrogate pair");
  if (typeof value === "number" && !Number.isFinite(value)) throw new Error("no number");
  if (value && typeof value === "object") Object.values(value).forEach((one) => check(one, depth + 1));
}

function names(text) {
  // Counts names in the text; a parsed object has fewer where one was there twice.
  return (text.match(/"(?:[^"\\]|\\.)*"\s*:/g) ?? []).length;
}

function count(value) {
  if (!value || typeof value !== "object") return 0;
  const inner = Object.values(value).reduce((sum, one) => sum + count(one), 0);
  return inner + (Array.isArray(value) ? 0 : Object.keys(value).length);
}

function isWhole(text) {
  const end = text.lastIndexOf(',"crc":"');
  const sum = crc32(Buffer.from(text.slice(0, end) + "}"));
  return text.slice(end) === `,"crc":"${sum.toString(16).padStart(8, "0")}"}`;
}

function judge(one) {
  try {
    if (one.schema === "Journal" && !isWhole(one.text)) return false;
    const value = JSON.parse(one.text);
    check(value, 0);
    if (names(one.text) !== count(value)) return false;
    if (!validators[one.schema](value)) return false;
    return !value.expires_at || isInstant(value.expires_at);
  } catch {
    return false;
  }
}

const wrong = [];
for (const one of cases.valid) if (!judge(one)) wrong.push(one);
for (const one of cases.invalid) if (judge(one)) wrong.push(one);
console.log(JSON.stringify({ read: cases.valid.length + cases.invalid.length, wrong }));
