import pytest

from addons.core import secret_names
from addons.core.secret_names import Verdict, could_be_secret, judge, judge_header

YES = """
    api_key,apiKey,API-Key,APIKEY,apikey2,openai_api_key,x-api-key,OPENAI_API_KEY,access_token,accessToken,accesstoken
    refresh_token,id_token,auth_token,secret,clientSecret,client_secret,secret_value,SECRET_KEY,private_key,privateKey
    password,Passwd,pwd,userPassword,cookie,Set-Cookie,cookies,authorization,proxyAuthorization,credential,signature
    aws_credentials,X-Amz-Signature,sig,X-Auth,api_keys,access_tokens,bearer,jwt,webhook.secret,mysecret,dbpassword
    api_key_prod,apiKeyValue,tokenValue,authHeader,secretAccess,password2,API_KEY_2,stripeKeyLive,openai_key_prod
    secretKeyBase,password_hash,access_token_v2,credentials[user],api_keys[],passwordConfirm,authorizationCode
    apikeyprod,apikeyvalue,tokenvalue,authheader,APIkey,pass_word,new_api_key,newAccessToken,page_access_token
    dbpwd,DBPWD,userpwd,hmacsignature,sharedaccesssignature,proxyauthorization,xauthorization,authorizationheader
    privatekeypem,密码,用户密钥,api令牌,口令,aws_creds,pswd,passcode,service_key,oauthToken
"""
MAYBE = """
    key,keys,Key,token,tokens,hotkey,subtoken,key_value,keyValue,token_text,auth_code,api_key_env,secret_hint,db_pass
    next_page_token,project_key,projectToken,event_key,github_tokens,deviceTokens,token_github,tokenGithub,key_openai
"""
NO = """
    max_tokens,total_tokens,prompt_tokens,completion_tokens_details,tokens_used,key_findings,keyword,keyboard,token_count
    token_type,prompt_cache_key,idempotency_key,sort_key,public_key,eos_token,author,authors,authored
    name,content,model,signal,design,passing,compass,session_id,access,access_level,你好,123,___
    api_key_id,apiKeyIds,api_key_name,api_key_last_used_at,secret_scanning,password_policy,passwordless,key_type
    access_token_expires_in,auth_type,authMethod,oauth_scopes,authorization_endpoint,credential_id,cookie_consent
    monkey,donkeys,secretary,tokenizer,tokenization,token_logprobs,token_endpoint,tokens_per_second,text_token
    max_tokens_per_1_minute,max_new_tokens,max_access_tokens,full_valid_mean_token_accuracy,kms_key_ring_name
    key_version,external_key_registered,keep_old_secret_active_for_24_hours,signature_algorithm,apikeyid,publicApiKey,Sec-WebSocket-Key
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
        ("X-Api-Key-Prod", True),
        ("X-Auth-Header", True),
        ("X-Api-Key-Id", False),
        ("anthropic-dangerous-direct-browser-access", False),
        ("X-OAuth-Scopes", False),
        ("Authentication-Info", False),
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
        (b"internationalization", False),
        (b" international2", False),
        (b"-" * 64, False),
        (b"1234567890123456", False),
        (b"QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUiOpAsDfGh", True),
    ],
    ids=["16", "15", "blanks", "Chinese", "long", "far", "a word", "a piece", "a rule", "a number", "letters alone"],
)
def test_a_value_could_be_a_secret(value: bytes, could: bool) -> None:
    assert could_be_secret(value) is could


def test_names_of_strangers_are_not_remembered_at_any_length() -> None:
    before = secret_names._judged.cache_info().currsize + secret_names._judged_header.cache_info().currsize
    for number in range(100):
        assert judge(f"{'x' * 5000}{number}_api_key") is Verdict.YES
        assert judge_header(f"{'x' * 5000}{number}-api-key")
    assert secret_names._judged.cache_info().currsize + secret_names._judged_header.cache_info().currsize == before
