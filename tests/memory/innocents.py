"""Texts without a secret that look as if they had one, made from a seed, and palace's own pages."""

import base64
import random
from collections.abc import Iterator
from pathlib import Path

from tests.memory.corpus import SEED, drawn

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/design.md", "docs/operating.md"]
PAGES += ["docs/security.md", "docs/hosts.md", "docs/reference/settings.md", "specs/README.md"]

# Places as in the corpus, and {png}; braces of the text are doubled.
MADE = [
    "commit {H40}\nAuthor: Jo <jo@example.org>\n\n    Rotate the tokens of the staging cluster",
    "{H7} Let a password be changed without logging in again",
    "Merge: {H7} {H7}\nindex {H7}..{H7} 100644\n--- a/auth/token.py\n+++ b/auth/token.py",
    "git checkout {H40} -- src/secrets/__init__.py",
    "session {uuid} opened, request {uuid} took 31 ms",
    "the broker's id is {uuid}, its epoch {D3}",
    "![shot](data:image/png;base64,{png})",
    '<img alt="key" src="data:image/jpeg;base64,{png}">',
    '"node_modules/x": {{ "version": "4.{D1}.{D1}", "integrity": "sha512-{B86}==" }}',
    'name = "trio"\nversion = "0.{D2}.0"\nfiles = [{{file = "trio.whl", hash = "sha256:{H64}"}}]',
    "attrs==25.{D1}.0 \\\n    --hash=sha256:{H64} \\\n    --hash=sha256:{H64}",
    'checksum = "{H64}"\nsource = "registry+https://github.com/rust-lang/crates.io-index"',
    "github.com/x/y v1.{D2}.0 h1:{B43}=\ngithub.com/x/y v1.{D2}.0/go.mod h1:{B43}=",
    "FROM debian@sha256:{H64}",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{B43} jo@laptop",
    "SHA256:{B43} jo@laptop (ED25519)",
    "-----BEGIN CERTIFICATE-----\n{B64}\n{B64}\n{B40}\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\n{B64}\n{B64}\n-----END PUBLIC KEY-----",
    "A file with -----BEGIN PRIVATE KEY----- up to -----END PRIVATE KEY----- is never committed.",
    "def login(user, password):\n    token = issue_token(user, check(password))\n    return token",
    'password = os.environ["DB_PASSWORD"]\ntoken = os.getenv("TOKEN{D1}")',
    'const token = await getToken({{ refresh: true }});\nif (!token) throw new Error("no token");',
    "password: str = field(repr=False)\ntoken: str | None = None\nsecret: bytes",
    "token = request.headers.get('Authorization', '').removeprefix('Bearer ')",
    'let secret = Secret::from_env("APP_SECRET_{D1}")?;\nlet key = SigningKey::new(&secret);',
    "headers = {{'Authorization': f'Bearer {{token}}', 'X-Request-Id': '{uuid}'}}",
    "Authorization: Bearer ${{GITHUB_TOKEN}}\nAuthorization: Basic <base64 of user:password>",
    "curl -H 'Authorization: Bearer $TOKEN' https://api.example/v1/items/{D6}",
    "env:\n  PASSWORD: ${{{{ secrets.PASSWORD }}}}\n  TOKEN: ${{{{ secrets.TOKEN_{D1} }}}}",
    "- name: DB_PASSWORD\n  valueFrom:\n  secretKeyRef:\n      name: db-{D2}\n      key: password",
    "password: {{{{ vault_db_password }}}}\ntoken: !vault |",
    "CREATE TABLE users (id INT, password VARCHAR(255) NOT NULL, token CHAR({D2}));",
    "ALTER ROLE app PASSWORD NULL; -- {D4}",
    'type: "password", name: "password", placeholder: "Password", required: true, size: {D2}',
    '"password": {{"type": "string", "minLength": {D2}, "description": "The password of one"}}',
    "password_min_length = {D2}\ntoken_ttl_s = {D4}\nsecret_name = app-{D2}\nmax_tokens: {D4}",
    "usage: 1{D4} prompt tokens, {D3} completion tokens, total_tokens={D4}",
    "The tokenizer made {D4} tokens of it; the token limit is {D5}.",
    'error: password authentication failed for user "app{D2}"',
    "fatal: could not read Password for 'https://git.example': terminal prompts disabled ({D3})",
    "The password must have at least {D2} characters, among them a digit and a sign.",
    "Passwords are hashed with argon2id, {D2} rounds; tokens are compared in constant time.",
    "We decided: no password in the URL, a token in a file (0600), rotated every {D2} days.",
    "The secret is kept in the keyring; the token is short-lived. See page {D3}.",
    "Jo asked whether the password is required: it is not, since version 1.{D2}.",
    "token: the unit in which a model is billed. secret: something that few know ({D2}).",
    "Bearer tokens and basic authentication are refused over plain HTTP (RFC {D4}).",
    "palace token new team --out ~/.config/palace/token-{D2}\npalace token list --json",
    "docker run -u 1000:1000 -e PASSWORD_FILE=/run/secrets/pw{D2} app",
    "https://example.org/reset?step=2&page={D3}&q=forgot+password#token",
    "https://docs.example/a/b:c@{D2}/tokens?sort=asc&cursor={D10}",
    "postgres://localhost:5432/app{D2}?sslmode=require",
    "postgres://user:password@localhost/app{D2} is the form of the URL",
    "2026-11-29T10:{D2}:07Z INFO palace.broker session=s-{H12} tool=mempalace_search ms={D3}",
    "ev=server-exit epoch={D2} identity={H16} wait_rc=-9 cause=killed",
    "Traceback:\n  File \"/app/token.py\", line {D3}, in refresh\nKeyError: 'token'",
    "cache_key={H64}\nidempotency-key: {uuid}\nprimary_key = user_{D6}",
    "key: {H40}\nsort key: created_at_{D2}\npublic_key: {B43}=",
    'etag: W/"{H32}"\nx-amz-request-id: {U16}\nlast-modified: {D10}',
    "sk-learn, sk-video{D1}, sk-image and the npm_config_registry of npm_lifecycle_event{D1}",
    "re_compile_{D1}, hf_hub_download_{D2}, glpat, xoxb, AKIA, ghp_ are prefixes",
    "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx is how it looks ({D2})",
    "token=<your token here> password=******** api_key=... secret=changeme {D2}",
    '0:JOR+MIC|auth.migration.tokens|"we keep the password in the vault"|0.{D1}|trust|DECISION',
    "T:{D3}<->{D3}|passwords_and_tokens\nARC:fear->trust->relief\n{D3}|JOR|2026-11-{D2}|auth",
    'FAM: ALC(wife) 2.{D1}y|secret.garden|"the key is under the mat"|0.8|tender|CORE',
    '1:KAI|api_key.rotation+session_token|"every {D2} days"|0.7|determ|TECHNICAL',
    "The cookie banner stays for {D2} days; Set-Cookie is sent once.",
    "ISBN 978-3-{D6}-{D2}-{D1}, order {D10}, tracking 1Z{U16}",
    "mac {H2}:{H2}:{H2}:{H2}:{H2}:{H2}, ip 10.0.{D2}.{D2}, build {D4}.{D2}",
    "sha256sum: {H64}  palace-{D1}.whl\nmd5: {H32}",
    "Container {H12} ({H64}) exited with 137 after {D4} s",
    "eth 0x{H40}, tx 0x{H64}: an address and a hash, no key",
    "trace_id={H32} span_id={H16} parent={H16}",
    "Subject: password reset for account {D6}\nMessage-ID: <{H16}@mail.example>",
    "{D10}:AAAA record of host{D2}.example -> 2001:db8::{H4}",
    "The access key is Alt+Shift+{D1}; the shortcut for credentials is Ctrl+K, {D1}.",
    "def test_password_{D2}():\n    assert check(password='', token=None) is False",
    "if password == confirm_password and len(token) == {D2}:",
    "interface Props {{ password: string; token?: string; apiKey: string | undefined; n: {D2} }}",
    'token := strings.TrimPrefix(header, "Bearer ")\nsecret, err := store.Secret(ctx, id{D1})',
    "$password = $_POST['password'];\n$token = bin2hex(random_bytes({D2}));",
    "secrets: [db_password, api_token]\nsecret: app-secret-v{D1}\ncredentials: aws-profile-{D1}",
    "Passwort: siehe Tresor, Fach {D2}. Das Token läuft nach {D2} Tagen ab.",
    "密码至少 {D2} 位. 令牌有效 {D1} 天.",
    "base64: {B120}",
    "{H32}{H32}",
]
ROUNDS = 4


def filled(rng: random.Random, template: str) -> str:
    text = template.replace("{png}", base64.b64encode(rng.randbytes(3000)).decode())
    return drawn(rng, text).replace("{{", "{").replace("}}", "}")


def innocents(seed: int = SEED) -> Iterator[str]:
    """Yield texts of which nothing may be taken."""
    rng = random.Random(seed)
    for template in MADE:
        for _ in range(ROUNDS):
            yield filled(rng, template)
    for page in PAGES:
        yield from (ROOT / page).read_text().split("\n\n")
