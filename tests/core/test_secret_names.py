import pytest

from addons.core.secret_names import Verdict, could_be_secret, judge, judge_header

YES = """
    api_key,apiKey,API-Key,APIKEY,apikey2,openai_api_key,x-api-key,OPENAI_API_KEY,access_token,accessToken,accesstoken
    refresh_token,id_token,auth_token,secret,clientSecret,client_secret,secret_value,SECRET_KEY,private_key,privateKey
    password,Passwd,pwd,userPassword,cookie,Set-Cookie,cookies,authorization,proxyAuthorization,credential,signature
    aws_credentials,X-Amz-Signature,sig,X-Auth,api_keys,access_tokens,bearer,jwt,webhook.secret,mysecret,dbpassword
"""
MAYBE = "key,keys,Key,token,tokens,hotkey,subtoken,monkeys"
NO = """
    max_tokens,total_tokens,prompt_tokens,completion_tokens_details,tokens_used,key_findings,keyword,keyboard,token_count
    token_type,prompt_cache_key,idempotency_key,next_page_token,sort_key,public_key,eos_token,author,authors,authored
    name,content,model,signal,design,passing,compass,session_id,access,access_level,你好,123,___
"""


def names(text: str) -> list[str]:
    return ",".join(text.split()).split(",")


@pytest.mark.parametrize("name", names(YES))
def test_it_promises_a_secret(name: str) -> None:
    assert judge(name) is Verdict.YES


@pytest.mark.parametrize("name", names(MAYBE))
def test_it_may_mean_something_else(name: str) -> None:
    assert judge(name) is Verdict.MAYBE


@pytest.mark.parametrize("name", [*names(NO), ""])
def test_it_promises_none(name: str) -> None:
    assert judge(name) is Verdict.NO


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("Authorization", True),
        ("X-Session-Token", True),
        ("Ocp-Apim-Subscription-Key", True),
        ("X-Access", True),
        ("X-Signature", True),
        ("x-goog-api-key", True),
        ("Sec-WebSocket-Key", False),
        ("Idempotency-Key", False),
        ("x-ratelimit-remaining-tokens", False),
        ("Access-Control-Allow-Credentials", False),
        ("WWW-Authenticate", False),
        ("Content-Type", False),
    ],
)
def test_a_header_holds_a_secret(name: str, secret: bool) -> None:
    assert judge_header(name) is secret


@pytest.mark.parametrize(
    ("value", "could"),
    [
        (b"0123456789abcdef", True),
        (b"0123456789abcde", False),
        (b"sixteen letters and blanks", False),
        ("一二三四五六七八九十一二三四五六".encode(), False),
        (b"x" * 100_000, True),
        (b"x" * 5000 + b" y", True),
    ],
    ids=["16", "15", "blanks", "Chinese", "long", "a blank far behind"],
)
def test_a_value_could_be_a_secret(value: bytes, could: bool) -> None:
    assert could_be_secret(value) is could
