"""Texts with secrets in them, and innocent ones, made from a seed: the tree holds none itself.

A kind is a template. `{A36}` stands for 36 characters of an alphabet, and what stands between « and
» is the secret; without these all of it is. Nothing here is taken from the tables of the product.
"""

import base64
import json
import random
import re
import string
import uuid
from collections.abc import Callable, Iterator

import attrs

SEED = 20480048
ALPHABETS = {
    "A": string.ascii_letters + string.digits,
    "L": string.ascii_lowercase + string.digits,
    "H": "0123456789abcdef",
    "U": string.ascii_uppercase + string.digits,
    "D": string.digits,
    "W": string.ascii_letters + string.digits + "_",
    "S": string.ascii_letters + string.digits + "_-",
    "B": string.ascii_letters + string.digits + "+/",
    "2": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    "P": string.ascii_letters + string.digits + "!#%^*+-_",
}
TOKENS = {
    "github": "ghp_{A36}",
    "github-app": "ghs_{A36}",
    "github-fine": "github_pat_{A22}_{A59}",
    "gitlab": "glpat-{S20}",
    "gitlab-routable": "glpat-{S27}.{L2}.{L9}",
    "gitlab-runner": "glrt-{S20}",
    "anthropic": "sk-ant-api03-{S93}AA",
    "openai-project": "sk-proj-{S74}T3BlbkFJ{S74}",
    "openai-service": "sk-svcacct-{S58}T3BlbkFJ{S58}",
    "openai-old": "sk-{A20}T3BlbkFJ{A20}",
    "openrouter": "sk-or-v1-{H64}",
    "hugging-face": "hf_{A34}",
    "groq": "gsk_{A52}",
    "xai": "xai-{A80}",
    "perplexity": "pplx-{A48}",
    "replicate": "r8_{A37}",
    "google-key": "AIza{S35}",
    "google-client": "GOCSPX-{S28}",
    "google-access": "ya29.{S120}",
    "aws-id": "AKIA{2>16}",
    "aws-session-id": "ASIA{2>16}",
    "slack-bot": "xoxb-{D12}-{D13}-{A24}",
    "slack-user": "xoxp-{D12}-{D12}-{D13}-{H32}",
    "slack-app": "xapp-1-{U11}-{D13}-{H64}",
    "slack-hook": "https://«hooks.slack.com/services/T{U10}/B{U10}/{A24}»",
    "discord-hook": "https://«discord.com/api/webhooks/{D19}/{S68}»",
    "discord-bot": "M{A23}.{S6}.{S38}",
    "telegram": "{D10}:AA{S33}",
    "stripe": "sk_live_{A24}",
    "stripe-restricted": "rk_test_{A99}",
    "stripe-webhook": "whsec_{A32}",
    "twilio": "SK{H32}",
    "sendgrid": "SG.{S22}.{S43}",
    "mailgun": "key-{H32}",
    "mailchimp": "{H32}-us14",
    "brevo": "xkeysib-{H64}-{A16}",
    "npm": "npm_{A36}",
    "pypi": "pypi-AgEIcHlwaS5vcmc{S150}",
    "rubygems": "rubygems_{H48}",
    "docker": "dckr_pat_{S27}",
    "shopify": "shpat_{H32}",
    "square": "sq0atp-{S22}",
    "digitalocean": "dop_v1_{H64}",
    "vault": "hvs.{S95}",
    "terraform": "{A14}.atlasv1.{S67}",
    "doppler": "dp.pt.{A43}",
    "grafana": "glsa_{A32}_{H8}",
    "new-relic": "NRAK-{U27}",
    "sentry": "sntryu_{H64}",
    "dynatrace": "dt0c01.{U24}.{U64}",
    "databricks": "dapi{H32}",
    "planetscale": "pscale_tkn_{S43}",
    "linear": "lin_api_{A40}",
    "notion": "ntn_{D11}{A35}",
    "airtable": "pat{A14}.{H64}",
    "atlassian": "ATATT3xFfGF0{S174}={U8}",
    "figma": "figd_{S40}",
    "postman": "PMAK-{H24}-{H34}",
    "tailscale": "tskey-auth-{A17}-{A32}",
    "age": "AGE-SECRET-KEY-1{U58}",
    "azure-client": "{A3}8Q~{S34}",
    "cloudflare-ca": "v1.0-{H24}-{H146}",
    "resend": "re_{A8}_{A24}",
    "sourcegraph": "sgp_{H16}_{H40}",
    "facebook": "EAAG{A160}",
    "square-access": "EAAA{S60}",
    "azure-devops": "{A76}AZDO{A4}",
    "asana": "2/{D16}/{D16}:{H32}",
    "1password": "A3-{U6}-{U11}-{U5}-{U5}-{U5}",
    "clickup": "pk_{D8}_{U32}",
    "s3-url": "https://b.s3.example/a?«X-Amz-Signature={H64}»",
    "teams-hook": "https://«x.webhook.office.com/webhookb2/{uuid}@{uuid}/IncomingWebhook/{H32}/{uuid}»",
    "bcrypt": "$2b$12${A53}",
    "bedrock": "ABSK{B120}=",
    "anthropic-admin": "sk-ant-admin01-{S93}AA",
    "hubspot": "pat-na1-{uuid}",
    "launchdarkly": "sdk-{uuid}",
    "xprv": "xprv{A107}",
    "jwt": "eyJ{S33}.eyJ{S80}.{S43}",
    "jwt-long": "eyJ{S60}.eyJ{S300}.{S342}",
}
NAMED = {
    "password": "password={P16}",
    "password-yaml": "db_password: {P14}",
    "password-said": "the admin password is {A6}{D2}{A6}",
    "passphrase": 'passphrase = "«{L5} {L6} {L5} {L7}»"',
    "api-key": "X-API-Key: {H32}",
    "client-secret": "client_secret={S32}",
    "aws-secret": "aws_secret_access_key = {B40}",
    "azure-account": "AccountName=store;AccountKey={B86}==;EndpointSuffix=core",
    "sas": "https://a.example/c?sv=2024&sig={A43}%3D&se=2027",
    "url-password": "postgres://admin:«{A20}»@db.example:5432/main",
    "url-token": "https://«{A40}»@git.example/a/b.git",
    "bearer": "Authorization: Bearer «{S43}»",
    "basic": "Authorization: Basic «{basic}»",
    "cookie": "Cookie: session=«{S40}»; csrftoken=«{A32}»",
    "curl": "curl -u deploy:«{A18}» https://ci.example/",
    "option": "deploy --token «{A32}» --region eu",
    "env": "export SECRET_KEY={A50}",
    "xml": "<password>«{A15}»</password>",
    "netrc": "machine a.example login bob password {A14}",
}
BLOCKS = {
    "rsa-key": "RSA PRIVATE KEY",
    "openssh-key": "OPENSSH PRIVATE KEY",
    "pgp-key": "PGP PRIVATE KEY BLOCK",
    "pkcs8-key": "ENCRYPTED PRIVATE KEY",
}


@attrs.frozen(kw_only=True)
class Sample:
    """A text, and what of it must not survive."""

    kind: str
    shape: str
    text: str
    secrets: tuple[str, ...]


def drawn(rng: random.Random, template: str) -> str:
    """Return a template with its places filled."""

    def fill(found: re.Match[str]) -> str:
        if found[0] == "{uuid}":
            return str(uuid.UUID(int=rng.getrandbits(128)))
        if found[0] == "{basic}":
            return base64.b64encode(f"bob:{drawn(rng, '{P18}')}".encode()).decode()
        return "".join(rng.choices(ALPHABETS[found[1]], k=int(found[2])))

    return re.sub(r"\{(?:basic|uuid|(\w)>?(\d+))\}", fill, template)


def block(rng: random.Random, label: str, lines: int = 12) -> str:
    rows = ["".join(rng.choices(ALPHABETS["B"], k=64)) for _ in range(lines)]
    rows.append(drawn(rng, "{B22}=="))
    return "\n".join([f"-----BEGIN {label}-----", *rows, f"-----END {label}-----"])


def plain(rng: random.Random, kind: str) -> tuple[str, tuple[str, ...]]:
    """Return a text of a kind, and its secrets."""
    if kind in BLOCKS:
        text = block(rng, BLOCKS[kind])
        return text, tuple(text.splitlines()[1:-1])
    template = NAMED.get(kind) or TOKENS[kind]
    if kind in TOKENS and "«" not in template:
        template = f"«{template}»"
    elif "«" not in template:  # the one place is the secret, all places of a word together
        template = re.sub(r"((?:\{[^}]+\})+(?:={1,2}|%3D)?)", r"«\1»", template, count=1)
    text = drawn(rng, template)
    return re.sub("[«»]", "", text), tuple(re.findall("«(.*?)»", text))


def again(text: str, secrets: tuple[str, ...]) -> str:
    return text if text.startswith("-----BEGIN") else secrets[0]


def split(text: str, secret: str, by: str) -> str:
    middle = len(secret) // 2
    return text.replace(secret, secret[:middle] + by + secret[middle:])


SHAPES: dict[str, Callable[[str, tuple[str, ...]], str]] = {
    "bare": lambda text, _: text,
    "within": lambda text, _: f"It works with {text} since Monday, as far as I know.",
    "quoted": lambda text, _: f"use '{text}' there",
    "json": lambda text, _: json.dumps({"id": 7, "note": text, "tags": ["a", "b"]}),
    "url": lambda text, _: f"https://api.example/v1/x?page=2&ref={text}&sort=asc",
    "header": lambda text, _: f"GET / HTTP/1.1\r\nX-Note: {text}\r\nAccept: */*\r\n\r\n",
    "crlf": lambda text, secrets: f"see\n{split(text, secrets[0], chr(13) + chr(10))}\nand so on",
    "wrapped": lambda text, secrets: f"see {split(text, secrets[0], chr(10) + '    ')} and so on",
    "twice": lambda text, secrets: f"{text}\n\nonce more: {again(text, secrets)} .",
    "ends": lambda text, _: f"{text}\n{'all that is between stays ' * 40}\n{text}",
}


def shapes_of(kind: str) -> list[str]:
    """Return the shapes in which a kind can be known: half a password is a word."""
    if kind in TOKENS:
        return list(SHAPES)
    if kind in BLOCKS:
        return [shape for shape in SHAPES if shape not in ("url", "within", "quoted", "wrapped")]
    return ["bare", "twice", "ends", "json", "header"] + (["crlf"] if kind == "bearer" else [])


def samples(seed: int = SEED) -> Iterator[Sample]:
    """Yield every kind in every shape."""
    rng = random.Random(seed)
    for kind in (*TOKENS, *NAMED, *BLOCKS):
        for shape in shapes_of(kind):
            text, secrets = plain(rng, kind)
            yield Sample(kind=kind, shape=shape, text=SHAPES[shape](text, secrets), secrets=secrets)


def leaked(sample: Sample, shown: str, least: int = 8) -> list[str]:
    """Return what of a sample's secrets is left, in pieces of `least` characters."""
    joined = re.sub(r"\r?\n[ \t]*", "", shown)
    return [
        piece
        for secret in sample.secrets
        for piece in (secret[i : i + least] for i in range(len(secret) - least + 1))
        if piece in shown or piece in joined
    ]
