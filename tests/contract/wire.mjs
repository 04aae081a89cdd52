// Reads and writes headers as contract/wire-v1.json describes them, with Node's own library alone.
import { readFileSync } from "node:fs";

const MOST = 65536;
const SAFE = /[A-Za-z0-9\-_.:,\/+@~]/;

function decode(line) {
  if (Buffer.byteLength(line) > MOST || /[^\x21-\x7e ]/.test(line)) throw new Error("bytes");
  const [head, kind, ...pairs] = line.split(" ");
  const version = /^palace\/([0-9]{1,15})$/.exec(head);
  if (!version || !kind) throw new Error("no header");
  const fields = {};
  for (const pair of pairs) {
    const at = pair.indexOf("=");
    if (at < 1) throw new Error("no value");
    fields[pair.slice(0, at)] = decodeURIComponent(pair.slice(at + 1));
  }
  return { version: Number(version[1]), kind, fields };
}

function quote(value) {
  return Array.from(Buffer.from(value), (byte) => {
    const sign = String.fromCharCode(byte);
    return SAFE.test(sign) ? sign : "%" + byte.toString(16).toUpperCase().padStart(2, "0");
  }).join("");
}

function encode({ version, kind, fields }) {
  const pairs = Object.entries(fields).map(([name, value]) => `${name}=${quote(value)}`);
  return [`palace/${version}`, kind, ...pairs].join(" ");
}

function refuses(line) {
  try {
    decode(line);
    return false;
  } catch {
    return true;
  }
}

const { valid, invalid } = JSON.parse(readFileSync(0, "utf8"));
const wrong = valid.filter(({ line, version, kind, fields }) => {
  const said = { version, kind, fields };
  return JSON.stringify(decode(line)) !== JSON.stringify(said) || encode(said) !== line;
});
wrong.push(...invalid.filter(({ line }) => !refuses(line)));
console.log(JSON.stringify({ read: valid.length + invalid.length, wrong }));
