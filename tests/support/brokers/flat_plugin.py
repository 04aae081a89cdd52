"""A memory plugin in fifty lines: the standard library, two dicts, no capabilities; says its port."""
import json, re, uuid; from datetime import UTC, datetime as Time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path; from urllib.parse import unquote
TYPES = dict(object=dict, array=list, string=str, boolean=bool, integer=int, number=(int, float))
NS, MEM, S = {}, {}, json.loads((Path(__file__).parents[3] / "contract/memory-plugin-v1.schemas.json").read_text())
finite = lambda text: float(text) if abs(float(text)) < 1e999 else [][0]
def read(raw): return json.loads(raw.decode(), object_pairs_hook=once, parse_float=finite, parse_constant=finite)
ROUTES = {(1, "health"): {"GET": None}, (1, "search"): {"POST": "SearchRequest"},
    (2, "namespaces"): {"PUT": "NamespaceUpsert", "PATCH": "NamespacePatch", "DELETE": None},
    (3, "namespaces", "memories"): {"POST": "MemoryWrite"}, (2, "memories"): {"DELETE": "ForgetRequest"}}
def fits(value, s):
    kind, props = s["type"], s.get("properties", {})
    size = len(value) if isinstance(value, (str, list, dict)) else value if kind != "boolean" else 0
    least = s.get("minItems", s.get("minProperties", s.get("minimum", -1e999)))
    return (isinstance(value, TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")
        and least <= size <= s.get("maxItems", s.get("maxLength", s.get("maximum", 1e999)))
        and (kind != "string" or re.fullmatch(s.get("pattern", "(?s:.*)"), value) is not None)
        and value in s.get("enum", [value]) and set(s.get("required", ())) <= set(value if props else ())
        and (s.get("additionalProperties", True) or set(value) <= set(props))
        and all(fits(one, s["items"]) for one in (value if kind == "array" else ()))
        and all(fits(value[name], one) for name, one in props.items() if name in value))
once = lambda pairs: dict(pairs) if len(dict(pairs)) == len(pairs) else [][0]  # an IndexError
def answer(method, path, raw):
    parts = [unquote(part, errors="strict") for part in path.split("?")[0].split("/")[2:]]
    methods, name = ROUTES.get((len(parts), parts[0], *parts[2:])), (parts[1:] or ["-"])[0]
    if methods is None or not name or method not in methods: return 405 if methods and name else 404, ", ".join(methods or ())
    schema, body, now = methods[method], {}, Time.now(UTC).isoformat()
    if len(parts) > 1 and not fits(name, S["MemoryId" if parts[0] == "memories" else "NamespaceName"]): return 400, "name"
    if schema and (b"[" * 65 in raw or not json.dumps(body := read(raw), ensure_ascii=False).encode() or not fits(body, S[schema])) or not Time.fromisoformat(body.get("expires_at", now).upper()).astimezone(UTC): return 400, "body"
    if parts[0] == "health": return 200, {"status": "ok", "version": "1.0.0", "capabilities": []}
    if parts[0] == "search": return 200, {"memories": [m for m in reversed(MEM.values()) if m["namespace"] in body["namespaces"] and body.get("query", "").strip().lower() in m["content"].lower() and m["kind"] in (body.get("kinds") or [m["kind"]])][: body.get("limit", 20)]}
    if parts[0] == "memories": return (204, MEM.pop(name)) if MEM.get(name, {}).get("namespace") == body["requested_by_namespace"] else (404, "no such memory")
    if method == "PUT": NS[name] = body | {"name": name, "created_at": NS.get(name, {}).get("created_at", now)}
    if name not in NS: return 404, "no such namespace"
    if method == "DELETE": return 204, (NS.pop(name), [MEM.pop(i) for i, m in list(MEM.items()) if m["namespace"] == name])
    if method != "POST": return 200, NS[name].update(body) or NS[name]
    if MEM.get((key := {"id": body.get("id", str(uuid.uuid4())), "namespace": name})["id"], key)["namespace"] != name: return 403, "the id of another memory"
    return 201, (MEM.pop(key["id"], None), MEM.update({key["id"]: body | key | {"created_at": now}})) and key
class Plugin(BaseHTTPRequestHandler):
    protocol_version, log_message = "HTTP/1.1", lambda *_: None
    def __getattr__(self, name): return self.serve if name[:3] == "do_" else object.__getattribute__(self, name)
    def serve(self):
        try: status, told = answer(self.command, self.path, self.rfile.read(int(self.headers["content-length"] or 0)))
        except (ValueError, IndexError, OverflowError, RecursionError) as error: status, told = 400, repr(error)
        error = {"code": {403: "forbidden", 404: "not_found"}.get(status, "bad_request"), "message": str(told)}
        raw = json.dumps(told if status < 300 else error).encode() if status != 204 else b""
        self.send_response(status), self.send_header("content-length", str(len(raw))), self.send_header("content-type", "application/json")
        status == 405 and self.send_header("allow", told), self.end_headers(), self.wfile.write(raw)
if __name__ == "__main__": print((server := ThreadingHTTPServer(("127.0.0.1", 0), Plugin)).server_port, flush=True), server.serve_forever()
