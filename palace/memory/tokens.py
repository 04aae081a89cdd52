"""Secrets that tell what they are: by how they begin, or by their shape.

The tables hold facts that issuers document: how a token begins, the alphabet of what follows, how
many characters are the fewest, and how many it has. Patterns of shapes have bounded repetitions
only, so that a text is searched in linear time.
"""

import re
from collections.abc import Iterator

import attrs

from palace.memory.runs import (
    ALNUM,
    BASE64,
    DIGITS,
    DOTTED,
    EDGE,
    HEAD_CHARS,
    HEX,
    UPPER,
    URL,
    WORD,
    Finding,
    Runs,
    has_letters_and_digits,
    is_filler,
    looks_random,
)
from palace.memory.views import View


@attrs.frozen
class Prefixed:
    """Tokens that begin alike: `least` characters follow, or, if `exact`, that many and no more.

    `whole` is how many follow usually, 0 for as many as `least`: a token that a line break cuts
    goes on up to there. `mixed` ones have letters and digits, since words begin like them, too.
    """

    kind: str
    prefixes: str
    alphabet: str
    least: int
    whole: int = 0
    exact: bool = False
    mixed: bool = False

    @property
    def loose(self) -> bool:
        """Tell whether other things may begin alike."""
        return self.mixed or self.exact

    @property
    def usual(self) -> int:
        return self.whole or self.least


PREFIXED = (
    Prefixed("github-token", "ghp_ gho_ ghu_ ghs_ ghr_", ALNUM, 36),
    Prefixed("github-token", "github_pat_", WORD, 40, 82),
    Prefixed(
        "gitlab-token", "glpat- gldt- glrt- glcbt- glptt- glft- glimt- gloas-", DOTTED, 20, 40
    ),
    Prefixed("gitlab-token", "glagent- glsoat- glffct- glrtr-", DOTTED, 20, 40),
    Prefixed("anthropic-key", "sk-ant-", URL, 20, 101),
    Prefixed("openai-key", "sk-proj- sk-svcacct- sk-admin- sk-None-", URL, 20, 156),
    Prefixed("openai-key", "sk-", ALNUM, 32, 48, mixed=True),
    Prefixed("openrouter", "sk-or-v1-", HEX, 40, 64),
    Prefixed("huggingface", "hf_ api_org_", ALNUM, 30, 34),
    Prefixed("groq-key", "gsk_", ALNUM, 40, 52),
    Prefixed("xai-key", "xai-", ALNUM, 40, 80, mixed=True),
    Prefixed("perplexity", "pplx-", ALNUM, 40, 48),
    Prefixed("replicate", "r8_", ALNUM, 36, 37, mixed=True),
    Prefixed("nvidia-key", "nvapi-", URL, 40, 64),
    Prefixed("langsmith", "lsv2_pt_ lsv2_sk_", WORD, 32, 43),
    Prefixed("tavily-key", "tvly-", URL, 20, 32, mixed=True),
    Prefixed("pinecone-key", "pcsk_", WORD, 40, 69),
    Prefixed("elevenlabs", "sk_", HEX, 48, exact=True),
    Prefixed("google-key", "AIza", URL, 35),
    Prefixed("google-oauth", "GOCSPX-", URL, 24, 28),
    Prefixed("google-oauth", "ya29. 1//0", DOTTED, 30, 160, mixed=True),
    Prefixed("aws-key-id", "AKIA ASIA ABIA ACCA", UPPER, 16, exact=True),
    Prefixed("aws-key", "ABSK", BASE64, 100, 128),
    Prefixed("aws-key", "bedrock-api-key-", BASE64, 30, 128),
    Prefixed("slack-token", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxo- xoxe- xoxe.xox", DOTTED, 16, 48),
    Prefixed("slack-token", "xapp-", URL, 20, 90),
    Prefixed("stripe-key", "sk_live_ sk_test_ rk_live_ rk_test_ sk_prod_", ALNUM, 12, 24),
    Prefixed("stripe-key", "whsec_", BASE64, 24, 32),
    Prefixed("razorpay-key", "rzp_live_ rzp_test_", ALNUM, 14),
    Prefixed("twilio-key", "SK", HEX, 32, exact=True),
    Prefixed("mailgun-key", "key-", HEX, 32, exact=True),
    Prefixed("brevo-key", "xkeysib- xsmtpsib-", URL, 40, 81),
    Prefixed("npm-token", "npm_", ALNUM, 36),
    Prefixed("pypi-token", "pypi-", URL, 50, 160, mixed=True),
    Prefixed("gem-key", "rubygems_", HEX, 40, 48),
    Prefixed("docker-token", "dckr_pat_ dckr_oat_", URL, 20, 27),
    Prefixed("crates-token", "cio", ALNUM, 32, exact=True, mixed=True),
    Prefixed("nuget-key", "oy2", "a-z0-9", 43, exact=True, mixed=True),
    Prefixed("clojars", "CLOJARS_", ALNUM, 60),
    Prefixed("shopify", "shpat_ shpca_ shppa_ shpss_", HEX, 32),
    Prefixed("square-token", "sq0atp- sq0csp- sq0idp-", URL, 22),
    Prefixed("digitalocean", "dop_v1_ doo_v1_ dor_v1_", HEX, 40, 64),
    Prefixed("vault-token", "hvs. hvb. hvr.", URL, 24, 95, mixed=True),
    Prefixed("doppler", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", DOTTED, 40, 43),
    Prefixed("grafana-token", "glc_ glsa_", BASE64, 32, 41, mixed=True),
    Prefixed("newrelic-key", "NRAK- NRII- NRJS- NRRA-", URL, 19, 27, mixed=True),
    Prefixed("sentry-token", "sntrys_", BASE64, 60, 180),
    Prefixed("sentry-token", "sntryu_", HEX, 40, 64),
    Prefixed("dynatrace", "dt0c01. dt0s01. dt0s16.", DOTTED, 40, 89),
    Prefixed("databricks", "dapi", HEX, 32),
    Prefixed("planetscale", "pscale_tkn_ pscale_pw_ pscale_oauth_", DOTTED, 32, 43),
    Prefixed("supabase", "sbp_", ALNUM, 40),
    Prefixed("supabase", "sb_secret_", WORD, 22, 31),
    Prefixed("neon-key", "napi_", ALNUM, 40, 64, mixed=True),
    Prefixed("netlify", "nfp_ nfc_ nfo_ nfu_", ALNUM, 36),
    Prefixed("vercel-token", "vck_ vcp_ vci_ vca_ vcr_", ALNUM, 24, 56, mixed=True),
    Prefixed("fly-token", "fo1_ fm1a_ fm1r_ fm2_", BASE64, 40, 140, mixed=True),
    Prefixed("heroku-key", "HRKU-", URL, 36, 60),
    Prefixed("render-key", "rnd_", ALNUM, 28, 32, mixed=True),
    Prefixed("linear-key", "lin_api_ lin_oauth_", ALNUM, 32, 40),
    Prefixed("notion-token", "ntn_", ALNUM, 40, 46, mixed=True),
    Prefixed("notion-token", "secret_", ALNUM, 43, exact=True, mixed=True),
    Prefixed("atlassian", "ATATT3 ATCTT3 ATBB ATSTT3", BASE64, 32, 186, mixed=True),
    Prefixed("figma-token", "figd_ figo_", URL, 36, 40),
    Prefixed("postman-key", "PMAK-", URL, 40, 59),
    Prefixed("dropbox", "sl.", URL, 120, 135, mixed=True),
    Prefixed("age-key", "AGE-SECRET-KEY-1 age-secret-key-1", UPPER + "a-z", 50, 58),
    Prefixed("1password", "ops_eyJ", BASE64, 100, 700),
    Prefixed("tailscale", "tskey-", URL, 20, 50),
    Prefixed("circleci", "CCIPAT_ CCIPRJ_", URL, 36, 65),
    Prefixed("buildkite", "bkua_ bkpi_ bkat_", ALNUM, 36, 40),
    Prefixed("sonar-token", "squ_ sqp_ sqa_", HEX, 40),
    Prefixed("jfrog-key", "AKCp", ALNUM, 60, 69),
    Prefixed("jfrog-key", "cmVmd", ALNUM, 59),
    Prefixed("typeform", "tfp_", DOTTED, 40, 59),
    Prefixed("readme-key", "rdme_", ALNUM, 60, 70),
    Prefixed("prefect-key", "pnu_ pnb_", ALNUM, 36),
    Prefixed("pulumi-token", "pul-", HEX, 40, exact=True),
    Prefixed("contentful", "CFPAT-", URL, 40, 43),
    Prefixed("easypost-key", "EZAK EZTK", ALNUM, 54),
    Prefixed("flutterwave", "FLWSECK-  FLWSECK_TEST-", URL, 12, 34),
    Prefixed("shippo-token", "shippo_live_ shippo_test_", HEX, 40),
    Prefixed("duffel-token", "duffel_live_ duffel_test_", URL, 43),
    Prefixed("frameio", "fio-u-", URL, 60, 64),
    Prefixed("mapbox-token", "sk.eyJ", DOTTED, 40, 80),
    Prefixed("plaid-token", "access-sandbox- access-development- access-production-", URL, 36),
    Prefixed("yandex-key", "AQVN", URL, 35, 38, mixed=True),
    Prefixed("alibaba-id", "LTAI", ALNUM, 20, exact=True, mixed=True),
    Prefixed("tencent-id", "AKID", ALNUM, 32, exact=True, mixed=True),
    Prefixed("infracost", "ico-", ALNUM, 32, exact=True, mixed=True),
    Prefixed("octopus-key", "API-", UPPER, 26, exact=True, mixed=True),
    Prefixed("openshift", "sha256~", URL, 43),
    Prefixed("azure-devops", "AzCa", ALNUM, 60, mixed=True),
    Prefixed("bitcoin-key", "xprv zprv yprv", ALNUM, 100, 107),
    Prefixed("adafruit", "aio_", ALNUM, 28, mixed=True),
    Prefixed("posthog", "phx_ phs_", WORD, 32, 43, mixed=True),
    Prefixed("mongodb-key", "mdb_sa_sk_", URL, 32, 40),
    Prefixed("pagarme-key", "ak_live_ ak_test_", ALNUM, 24, 30),
    Prefixed("fleetbase", "flb_live_ flb_test_", ALNUM, 16, 20),
    Prefixed("sourcegraph", "slk_", HEX, 64),
    Prefixed("hubspot", "pat-na1- pat-eu1- pat-na2-", URL, 36),
    Prefixed("launchdarkly", "sdk- api- mob-", HEX + "-", 36, exact=True, mixed=True),
    # Keys without their armour: the first bytes of PKCS#8, PKCS#1 and OpenSSH's own format.
    Prefixed(
        "private-key", "MIIEvQIBADAN MIIEvgIBADAN MIIEvAIBADAN MIIJQgIBADAN", BASE64, 40, 1600
    ),
    Prefixed(
        "private-key", "MIIEpAIBAAKC MIIEowIBAAKC MIIEpQIBAAKC MIIJKQIBAAKC", BASE64, 40, 1600
    ),
    Prefixed("private-key", "b3BlbnNzaC1rZXktdjE", BASE64, 40, 400),
)
# Kind, what a text must hold for the pattern to be tried, an alphabet of which no character may
# stand before it, how long it usually is, and the pattern.
SHAPES = tuple(
    (kind, hint, before, usual, re.compile(pattern))
    for kind, hint, before, usual, pattern in (
        ("slack-url", "hooks.slack.com", "", 70, r"hooks\.slack\.com/[a-z]{6,12}/[\w/+-]{20,120}"),
        (
            "discord-url",
            "/webhooks/",
            "",
            113,
            r"discord(?:app)?\.com/api/webhooks/\d{15,22}/[\w-]{40,100}",
        ),
        ("teams-url", "webhookb2", "", 200, r"webhook\.office\.com/webhookb2/[\w@/-]{40,300}"),
        ("teams-url", "/webhook/", "", 200, r"outlook\.office\.com/webhook/[\w@/-]{40,300}"),
        ("sendgrid-key", "SG.", ALNUM, 69, r"SG\.[\w-]{16,40}\.[\w-]{30,64}"),
        ("discord", ".", ALNUM, 70, r"[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,40}"),
        ("telegram", ":AA", DIGITS, 46, r"\d{8,12}:AA[\w-]{32,35}"),
        ("clickup-key", "pk_", ALNUM, 44, r"pk_\d{5,10}_[A-Z0-9]{32}"),
        ("airtable", "pat", ALNUM, 82, r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}"),
        ("mailchimp", "-us", HEX, 36, r"[0-9a-f]{32}-us\d{1,2}(?!\d)"),
        ("resend-key", "re_", ALNUM, 36, r"re_[A-Za-z0-9]{8,10}_[A-Za-z0-9]{20,30}"),
        ("sourcegraph", "sgp_", ALNUM, 60, r"sgp_(?:[0-9a-f]{16}_)?(?:local_)?[0-9A-Fa-f]{40}"),
        ("facebook", "EAA", ALNUM + "+/", 180, r"EAA[A-Za-z0-9]{100,300}"),
        ("square-token", "EAAA", ALNUM + "+/", 64, r"EAAA[\w-]{60}"),
        ("azure-secret", "Q~", WORD + ".~-", 40, r"[\w~.]{3}\dQ~[\w~.-]{31,34}"),
        ("azure-devops", "AZDO", ALNUM, 84, r"[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}"),
        ("cloudflare", "v1.0-", ALNUM, 176, r"v1\.0-[0-9a-f]{24}-[0-9a-f]{146}"),
        ("terraform", ".atlasv1.", ALNUM, 90, r"[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,70}"),
        ("asana-token", "/", DIGITS + "/", 50, r"[12]/\d{15,17}(?:/\d{15,17})?:[0-9a-f]{32}"),
        ("1password", "A3-", ALNUM, 40, r"A3-[A-Z0-9]{6}(?:-[A-Z0-9]{5,11}+){4,5}"),
        ("aws-url", "X-Amz-", "", 80, r"X-Amz-(?:Signature|Security-Token)=[\w%+/=-]{16,2048}"),
        (
            "crypt-hash",
            "$",
            "",
            60,
            r"\$(?:[156789y]|2[abxy]|apr1|argon2id?|scrypt)\$[\w./+=,$-]{20,200}",
        ),
    )
)
_ESCAPED = re.compile(r"(?:\\[nrtbf]|%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4})\Z")


@attrs.frozen
class _Token:
    """A finding, how long its like usually is, and where what is drawn of it begins.

    `sure` tells that nothing else begins like it, `open` that it may well be longer.
    """

    finding: Finding
    usual: int
    body: int
    sure: bool
    open: bool = False


def find_tokens(runs: Runs, view: View) -> Iterator[Finding]:
    """Yield the secrets of a view that tell what they are.

    Of a view whose line breaks were taken out, only those that had one are yielded, up to the line
    on which they end.
    """
    for token in _tokens(runs, view):
        if not view.breaks:
            yield token.finding
        elif (cut := _cut(view, token)) is not None:
            yield cut


def _tokens(runs: Runs, view: View) -> Iterator[_Token]:
    for token in (*PREFIXED, _JWT):
        for prefix in token.prefixes.split():
            yield from _prefixed(token, prefix, runs, view)
    for kind, hint, before, usual, shape in SHAPES:
        place = 0 if hint in runs.text else len(runs.text)
        while (found := shape.search(runs.text, place)) is not None:
            start, end = found.span()
            place = start + 1
            if _may_begin(view, start, before):
                place = runs.end(EDGE, end)
                yield _Token(Finding(kind, start, place), usual, start, sure=False)


def _prefixed(token: Prefixed, prefix: str, runs: Runs, view: View) -> Iterator[_Token]:
    # What is long and no word is found within a word, too.  One search for each prefix is a tenth
    # of the time of a pattern with all of them.
    before = "" if len(prefix) >= 4 and not (prefix.isalnum() or token.loose) else ALNUM
    start = runs.text.find(prefix)
    while start >= 0:
        body, place = start + len(prefix), start + 1
        if _may_begin(view, start, before) and (end := _end_of(token, runs, view, body)):
            place = runs.end(EDGE, end)
            usual = len(prefix) + token.usual
            finding = Finding(token.kind, start, place)
            yield _Token(finding, usual, body, not token.mixed, token.whole > 0)
        start = runs.text.find(prefix, place)


def _may_begin(view: View, place: int, before: str) -> bool:
    """Tell whether no character of `before` stands before a place, as a part of its word."""
    if not before or not place or not re.match(f"[{before}]", view.text[place - 1]):
        return True
    return view.is_break(place) or bool(_ESCAPED.search(view.text[max(0, place - 6) : place]))


def _end_of(token: Prefixed, runs: Runs, view: View, body: int) -> int:
    """Return where the token ends whose prefix ends at `body`, 0 where there is none."""
    text, fewest, end = runs.text, body + token.least, runs.end(token.alphabet, body)
    head = text[body : min(end, body + HEAD_CHARS)]
    if end < fewest or is_filler(head) or (token.mixed and not has_letters_and_digits(head)):
        return 0
    if token is _JWT and not _JWT_PARTS.match(text, body):
        return 0
    if token.exact:
        alone = not text[fewest : fewest + 1].isalnum() or view.is_break(fewest)
        return fewest if alone else 0
    return end


def _cut(view: View, token: _Token) -> Finding | None:
    """Return a token up to the line that it ends on, None where that is the one it begins on.

    A line belongs to it as long as characters are missing, and, where nobody can say how many it
    has, if the line looks like more of it.
    Unless the prefix is sure, one of its lines must look random: lists of words, one to a line,
    begin like many a token.
    """
    kind, start, end = token.finding
    breaks = view.breaks_in(start, end)
    if not breaks:
        return None
    random = token.sure or looks_random(view.text[min(token.body, breaks[0]) : breaks[0]])
    for line, after in zip(breaks, [*breaks[1:], end], strict=True):
        goes_on = looks_random(view.text[line:after])
        if line - start >= token.usual and not (token.open and goes_on):
            end = line
            break
        random = random or goes_on
    return Finding(kind, start, end) if random and end > breaks[0] else None


_JWT = Prefixed("jwt", "eyJ", DOTTED, 20, 160)
_JWT_PARTS = re.compile(r"[\w-]{8,2048}\.(?:eyJ|[\w-]{8,2048}\.|\.)")
