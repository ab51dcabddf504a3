"""Which names promise a secret: of fields in JSON, forms and queries, and of headers.

A name is cut into words, at `_`, `-`, `.`, blanks and where camel case begins a new one. The last word that speaks of a
secret is its noun, and what stands behind that, its tail, may take the promise back. Three verdicts, since `key` and
`token` have a second meaning in this trade:

1. YES: `password`, `client_secret`, `Set-Cookie`, `x-api-key`, `refreshToken`; `api_key_prod`, `tokenValue`.
2. MAYBE: `key`, `token`, `hotkey`, `key_value`: only where the value could be a secret (`could_be_secret`).
3. NO: `max_tokens`, `key_findings`, `prompt_cache_key`; `api_key_id`, `password_policy`.
"""

import enum
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import unquote_plus


class Verdict(enum.Enum):
    """What a name says of its value."""

    NO = 0
    MAYBE = 1
    YES = 2


_LONGEST = 128
"""Characters of a name that are read: its end, where the noun stands. Longer names are not remembered either: strangers
choose them, and may choose many."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # linear: each letter belongs to one word


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Whatever these are called in full, it is a secret, unless their tail is about something else.
_SECRET = _words(
    "apikey apitoken secret secretkey clientsecret password passwd pwd pswd passphrase passcode cookie authorization "
    "authtoken accesstoken accesskey refreshtoken idtoken sessiontoken privatekey credential cred signature"
)
# These, where they stand last or with a tail that names a value.
_SECRET_LAST = _words("auth oauth sig bearer jwt")
_NOUNS = _words("key token")
# `api_key`, `access_token`: as sure as one word. Of others, `sort_key` or `text_tokens`, the rest of the name decides.
_ISSUED = _words(
    "access api auth oauth refresh session bearer user secret private client id admin master service subscription "
    "signing encryption security webhook account licence license deploy bot"
)
# `prompt_cache_key`, `next_page_token`, `eos_token`, `sort_key`: what these name is no secret.
_HARMLESS = _words(
    "cache idempotency sort order primary foreign partition group routing public publishable max min total num number "
    "count stop eos bos pad unk sep cls mask special start end first last new dictionary lookup index unique composite "
    "row column field label property param arrow modifier shortcut answer dedupe text input output prompt completion "
    "reasoning socket total usage used remaining reset ratelimit cached"
)
# `page_token`, `project_key`: no secret as a rule, and a capability now and then.
_UNLIKELY = _words(
    "page pagination next previous continuation cursor object map translation locale message event issue project "
    "feature metric"
)
_ISSUERS = _words(
    "openai anthropic azure aws gcp google gemini github gitlab groq mistral deepseek cohere huggingface hf slack "
    "stripe openrouter moonshot dashscope qwen zhipu"
)
_COUNTING = _words("max min total num number count public publishable")
# `api_key_id`, `password_policy`, `token_type`, `secret_scanning`: about a secret, none itself.
_ABOUT = _words(
    "id name type kind count limit usage used use length len size max min policy scanning scan scanner finding version "
    "algorithm alg method mode format expire expiry expiration expired at in on ttl age lifetime duration second "
    "minute hour day date time timestamp created updated deleted removed registered rotated rotation changed revoked "
    "url uri endpoint host domain path file filename dir directory location provider source origin owner status state "
    "valid validity enabled disabled required present exist missing active error failed failure verified verification "
    "strength field label title description placeholder question per budget cost price rate ratio accuracy logprob "
    "logprobs detail stat metadata index position offset start end manager management store storage vault engine class "
    "schema scope permission audience issuer realm scheme region ring ocid arn consent banner preference setting less "
    "only based supported"
)
# `api_key_env`, `secret_hint`: a name or a part of it, but perhaps the whole.
_DOUBTFUL = _words("env var variable prefix suffix hint info")
# `openai_key_prod`, `authHeader`: the secret itself, one of several.
_VALUES = _words("value val header prod production live staging stage sandbox dev development secret")
_PERHAPS = _words(
    "test raw plain plaintext string str text data base hex pem encoded encrypted old new backup current code"
)
_GLUED = re.compile(
    r"apikey|passphrase|passcode|secret(?!ar)|password|passwd|pwd|accesstoken|authtoken|credential|cookie|signature"
    r"|authorization|privatekey"
)
_GLUED_VALUE = re.compile(rf"(token|key|auth)({'|'.join(sorted(_VALUES, key=len, reverse=True))})")
_NO_KEYS = _words("monkey donkey turkey whiskey jockey hockey hickey mickey lackey flunkey")
_CHINESE = ("密码", "密碼", "密钥", "密鑰", "秘钥", "口令", "令牌")
_HEADER_LAST = frozenset(("access", "pass"))
_HARMLESS_HEADERS = frozenset(
    (
        *("sec-websocket-key", "idempotency-key", "sec-websocket-accept"),
        "anthropic-dangerous-direct-browser-access",  # Claude Code's: `true`
    )
)

_LONGEST_PART = 256
_LONGEST_JSON = 4096
_JSON = re.compile(rb"(?:[{\[]|%(?:25){0,3}+(?:7[Bb]|5[Bb]))")
_JSON_NAME = re.compile(r"""["']([\w.-]{1,64}+)["'](?:\s{0,16}+:\s{0,16}+["']?+([^"',}\s]{0,64}+))?""")
_SHORTEST_SECRET = 16
_LONG_WORD = 21
"""Characters of a value that need not have both letters and digits."""
_COULD_BE = re.compile(rb"[\x21-\x7e]{16,4096}+")
_ALNUM, _LETTER, _DIGIT = re.compile(rb"[A-Za-z0-9]"), re.compile(rb"[A-Za-z]"), re.compile(rb"[0-9]")


# Some of this stands in every name that promises a secret: most names need no thorough look. The last four begin 密,
# 秘, 令 and 口.
STEMS = (
    *b"key token secret pass pwd pswd cookie auth cred sig jwt bearer".split(),
    *(b"\xe5\xaf", b"\xe7\xa7\x98", b"\xe4\xbb\xa4", b"\xe5\x8f\xa3"),
)
STEM = re.compile(b"|".join(map(re.escape, STEMS)), re.IGNORECASE)


def judge(name: str) -> Verdict:
    """What the name of a field promises.

    >>> judge("openaiApiKey"), judge("token"), judge("max_tokens")
    (<Verdict.YES: 2>, <Verdict.MAYBE: 1>, <Verdict.NO: 0>)
    """
    return _judged(name) if len(name) <= _LONGEST else _judge(name[-_LONGEST:])


def judge_header(name: str) -> bool:
    """Whether a header of this name holds a secret."""
    return _judged_header(name) if len(name) <= _LONGEST else _judge_header(name[-_LONGEST:], _judge)


def could_be_secret(value: bytes) -> bool:
    """Whether a value could be a key or a token: 16 characters, no blank, letters and digits; or 21 of any kind,
    since models say and count words as `token`, too (`internationalization`)."""
    if len(value) < _SHORTEST_SECRET or _COULD_BE.match(value) is None:
        return False
    start = value[:4096]
    if re.search(rb"[^\x21-\x7e]", start) or _ALNUM.search(start) is None:
        return False
    return len(value) >= _LONG_WORD or (_DIGIT.search(start) is not None and _LETTER.search(start) is not None)


def is_about(name: str) -> bool:
    """Whether a field of this name, beside secrets, says something about them: `token_uri`, `private_key_id`."""
    words = _WORD.findall(name[-_LONGEST:])
    return len(words) > 1 and _singular(words[-1].lower()) in _ABOUT


def is_secret_part(name: bytes, value: bytes) -> bool:
    """Whether `name=value` of a form or a query is a secret."""
    if not value:
        return False
    if b"%" not in name and STEM.search(name) is None:
        return False
    said = unquote_plus(name[:_LONGEST_PART].decode("latin-1"))
    for _ in range(3):  # more than one encoding: it stands in an address within an address
        if "%" not in said:
            break
        said = unquote_plus(said)
    verdict = judge(said)
    return verdict is Verdict.YES or (verdict is Verdict.MAYBE and could_be_secret(value))


def _unquoted(value: bytes) -> str:
    return unquote_plus(value[:_LONGEST_JSON].decode("latin-1"))


def is_secret_json(value: bytes) -> bool:
    """Whether the value of a query's part is JSON with a secret in it: it is hidden whole."""
    if _JSON.match(value) is None:
        return False
    for found in _JSON_NAME.finditer(_unquoted(value)):  # a name, or a text that names what stands beside it
        verdict = judge(found[1])
        said = found[2] or ""
        if verdict is Verdict.YES or (verdict is Verdict.MAYBE and could_be_secret(said.encode())):
            return True
        if found[1].lower() in ("name", "key", "field") and judge(said) is Verdict.YES:
            return True
    return False


def _judge(name: str) -> Verdict:
    written = [part for word in _WORD.findall(name) for part in _parted(word.lower())]
    words = [_singular(word) for word in written]
    if any(word in name for word in _CHINESE):
        return Verdict.YES
    for at in range(len(words) - 1, -1, -1):
        word = words[at]
        if word in _SECRET:
            return _by_tail(words[at + 1 :], Verdict.YES)
        if word in _SECRET_LAST:
            return _by_tail(words[at + 1 :], Verdict.NO)
        if word in _NOUNS:
            return _judge_noun(written, words, at)
    if not words:
        return Verdict.NO
    if _GLUED.search("".join(words)) and not _ABOUT.intersection(words):  # APIkey, pass_word
        return Verdict.YES
    last = words[-1]
    may_be = last.endswith(("key", "token")) and last not in _NO_KEYS and _HARMLESS.isdisjoint((*written, *words))
    return Verdict.MAYBE if may_be or (last == "pass" and len(words) > 1) else Verdict.NO


def _judge_noun(written: list[str], words: list[str], at: int) -> Verdict:
    """`key` or `token` at `at`: what stands around it says which."""
    before, tail = words[:at], words[at + 1 :]
    if before and before[-1] in _ISSUED and _COUNTING.isdisjoint(before):
        return _by_tail(tail, Verdict.YES)
    if not _HARMLESS.isdisjoint((*written[:at], *before)):
        return Verdict.NO
    if words[at] == "token" and written[at] == "tokens" and (before or tail):
        # `total_tokens`, `tokens_used`: what a model reads and writes; `github_tokens` are others.
        return Verdict.NO if tail and not _ABOUT.isdisjoint(tail) else Verdict.MAYBE
    if not _UNLIKELY.isdisjoint((*written[:at], *before)):
        return Verdict.MAYBE
    if not tail:
        return Verdict.YES if before else Verdict.MAYBE
    judged = _by_tail(tail, Verdict.NO)
    if judged is Verdict.NO and len(tail) == 1 and _ABOUT.isdisjoint(tail):
        # `token_github`, `key_openai`: whose it is. What else begins with `key` is about what matters most.
        return Verdict.MAYBE if words[at] == "token" or tail[0] in _ISSUERS else Verdict.NO
    # `key_value` and `key_header` speak of maps as well.
    return Verdict.MAYBE if judged is Verdict.YES and not before and words[at] == "key" else judged


def _by_tail(tail: list[str], otherwise: Verdict) -> Verdict:
    """What a noun is that stands before this, `otherwise` where the words of the tail don't tell."""
    if not tail:
        return Verdict.YES
    if not _ABOUT.isdisjoint(tail):
        return Verdict.NO
    if not _DOUBTFUL.isdisjoint(tail):
        return Verdict.MAYBE
    if not _VALUES.isdisjoint(tail):
        return Verdict.YES
    if otherwise is Verdict.NO and not _PERHAPS.isdisjoint(tail):
        return Verdict.MAYBE
    return otherwise


def _parted(word: str) -> tuple[str, ...]:
    """A word of several without a mark between them: `dbpassword`, `apikeyprod`, `authheader`."""
    if (found := _GLUED.search(word)) is not None:
        parts = (word[: found.start()], found[0], word[found.end() :])
        return tuple(part for part in parts if part and part != "s")
    if (found := _GLUED_VALUE.fullmatch(word)) is not None:
        return found[1], found[2]
    return (word,)


def _judge_header(name: str, judging: Callable[[str], Verdict] = judge) -> bool:
    low = name.lower()
    if low in _HARMLESS_HEADERS or low.startswith("access-control-"):
        return False
    return judging(low) is not Verdict.NO or low.rpartition("-")[2] in _HEADER_LAST


_judged = lru_cache(4096)(_judge)
_judged_header = lru_cache(1024)(_judge_header)


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
