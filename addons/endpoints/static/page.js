// The page at /: fills in the address it was opened under, talks to /chat and /pro/balance of the same origin.
//
// 1. Words come in two languages side by side; the stylesheet shows one of them.
// 2. What others wrote (answers, messages, settings) becomes text nodes; of an answer's Markdown markdown.js makes elements.
// 3. The key is read from its field when it is needed, and stored nowhere. The tab remembers which conversation is its
//    own, and asks relay for its text when it is loaded again.
"use strict";

const settings = JSON.parse(document.getElementById("settings").textContent);
const base = location.origin + location.pathname.replace(/\/+$/, "");
const at = (id) => document.getElementById(id);

function element(name, className, ...children) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
}

function both(zh, en) {
  const made = document.createDocumentFragment();
  for (const [lang, text] of [["zh-CN", zh], ["en", en]]) {
    const span = element("span", "", text);
    span.lang = lang;
    made.append(span);
  }
  return made;
}

// -- language

function speak(lang) {
  document.documentElement.lang = lang;
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === lang));
  }
}

speak((navigator.languages[0] || navigator.language || "zh").toLowerCase().startsWith("zh") ? "zh-CN" : "en");
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => speak(button.dataset.language));
}

// -- numbers in words

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];
const TIMES = [[86400, "天", "d"], [3600, "小时", "h"], [60, "分钟", "min"], [1, "秒", "s"], [0.001, "毫秒", "ms"]];

function size(bytes) {
  let power = 0;
  while (power < SIZES.length - 1 && bytes >= 1024) {
    bytes /= 1024;
    power += 1;
  }
  return `${Number(bytes.toFixed(1))} ${SIZES[power]}`;
}

function duration(seconds, word) {
  const parts = [];
  let rest = Math.round(seconds * 1000);
  for (const time of TIMES) {
    const count = Math.floor(rest / Math.round(time[0] * 1000));
    rest -= count * Math.round(time[0] * 1000);
    if (count) parts.push(`${count} ${time[word]}`);
  }
  return parts.join(" ");
}

const lasting = (seconds) => [duration(seconds, 1), duration(seconds, 2)];

// -- addresses and examples

function shellWord(text) {
  return /^[\w.:/@%+=,\[\]-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function examples() {
  const model = JSON.stringify(settings.model);
  const v1 = JSON.stringify(`${base}/v1`);
  const body = (fields) => `'${fields.replaceAll("'", "'\\''")}'`;
  const shown = {
    curl: `curl ${shellWord(`${base}/v1/chat/completions`)} \\
  -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d ${body(`{
    "model": ${model},
    "messages": [{"role": "user", "content": "Hello"}]
  }`)}`,
    python: `from openai import OpenAI

client = OpenAI(
    base_url=${v1},
    api_key="sk-...",
)
answer = client.chat.completions.create(
    model=${model},
    messages=[{"role": "user", "content": "Hello"}],
)
print(answer.choices[0].message.content)`,
    node: `import OpenAI from "openai";

const client = new OpenAI({
  baseURL: ${v1},
  apiKey: "sk-...",
});
const answer = await client.chat.completions.create({
  model: ${model},
  messages: [{ role: "user", content: "Hello" }],
});
console.log(answer.choices[0].message.content);`,
  };
  if (settings.chat) {
    const url = shellWord(base + settings.chat.path);
    const fields = (content) => body(`{
  "apiKey": "sk-...", "sessionId": "1",
  "content": "${content}"
}`);
    shown.chat = `curl ${url} -d ${fields("我叫小明")}

curl ${url} -d ${fields("我叫什么名字？")}`;
  }
  return shown;
}

function fill() {
  at("base-url").textContent = `${base}/v1`;
  at("origin-url").textContent = base;
  at("insecure").hidden = window.isSecureContext;
  for (const [name, text] of Object.entries(examples())) at(`code-${name}`).textContent = text;
  if (settings.chat) at("chat-label").textContent = settings.chat.path;
  else for (const id of ["tab-chat", "chat-label"]) at(id).remove();
  for (const part of document.querySelectorAll("[data-needs]")) {
    part.hidden = !part.dataset.needs.split(" ").some((need) => settings[need]);
  }
  document.querySelector("main").classList.toggle("alone", !settings.chat && !settings.balance);
}

function limits() {
  const rows = [];
  const row = (zh, en, zhValue, enValue = zhValue) => rows.push([both(zh, en), both(zhValue, enValue)]);
  const { chat, balance } = settings;
  if (chat) {
    row("对话的模型", "Model of a conversation", settings.model);
    row("每条消息", "One message", `${chat.max_content} 字符`, `${chat.max_content} characters`);
    row("请求体上限（/chat）", "One request (chat)", size(chat.max_body));
    row("对话保留时长", "Conversation kept", ...lasting(chat.session_ttl));
    row("每次附带的历史消息", "Sent again with a message", `最多 ${chat.max_turns} 轮、约 ${chat.max_tokens} token`,
      `up to ${chat.max_turns} turns, about ${chat.max_tokens} tokens`);
    row("回答超时（/chat）", "Time for an answer (chat)", ...lasting(chat.timeout));
  }
  row("请求体上限（/v1）", "One request (/v1)", size(settings.max_body));
  row("空闲超时", "Silence until given up", ...lasting(settings.idle));
  if (balance) row("用量统计周期", "Use that a balance counts", `最近 ${balance.window_days} 天`, `last ${balance.window_days} days`);
  for (const [name, value] of rows) {
    at("limits").append(element("div", "", element("dt", "", name), element("dd", "", value)));
  }
}

function notes() {
  const note = (zh, en) => at("notes").append(element("li", "", both(zh, en)));
  const { chat, balance } = settings;
  if (balance) { // where it matters, beside the number
    const zh = `密钥使用超过 ${balance.window_days} 天后，查询到的余额不准确：更早的用量没有计入。`;
    const en = `Once a key has been in use for more than ${balance.window_days} days, its balance is inexact: earlier use is not counted.`;
    at("inexact").append(both(zh, en));
  }
  note("上下文越长，消耗的 token 越多。", "The longer the context, the more tokens a message costs.");
  if (chat) {
    note(`对话以明文保存在中转服务器上，最后一轮之后 ${duration(chat.session_ttl, 1)}删除；密钥只保存为哈希。`,
      `Conversations lie on the relay in plain text until ${duration(chat.session_ttl, 2)} after the last turn; keys as hashes only.`);
  }
  note("请求会带着你的密钥转发给上游。只使用你信任的中转。", "Requests go to the upstream with your key. Use a relay that you trust.");
}

// -- copying

async function copy(button, source) {
  try {
    await navigator.clipboard.writeText(source.textContent); // there in secure contexts only
  } catch {
    const selection = getSelection();
    selection.selectAllChildren(source);
    if (!document.execCommand("copy")) return; // it stays selected
    selection.removeAllRanges();
  }
  const label = [...button.childNodes];
  button.replaceChildren(both("已复制", "Copied"));
  tell(both("已复制", "Copied"));
  button.disabled = true;
  setTimeout(() => {
    button.replaceChildren(...label);
    button.disabled = false;
  }, 1500);
}

function copyButton(source) {
  const button = element("button", "copy", both("复制", "Copy"), element("span", "hidden", both("代码", " the code")));
  button.type = "button";
  button.addEventListener("click", () => copy(button, source));
  return button;
}

// For who hears the page: said once, and not to be met again when reading on.
function tell(...nodes) {
  const said = element("span", "", ...nodes);
  at("said").replaceChildren(said);
  setTimeout(() => said.remove(), 3000);
}

// -- asking relay

class Refused extends Error {
  constructor(zh, en = zh) {
    super(en);
    this.words = zh === en ? document.createTextNode(zh) : both(zh, en);
  }
}

function given() {
  const text = at("key").value.trim();
  return /^[\x21-\x7e]+$/.test(text) ? text : "";
}

function key() {
  const good = given();
  if (good) return good;
  at("key").focus();
  throw at("key").value.trim() ? new Refused("密钥含有无效字符，请检查。", "The key holds characters that no key has: check it.")
    : new Refused("请先填写密钥。", "Enter your API key first.");
}

const bearer = (secret) => ({ headers: { Authorization: `Bearer ${secret}` } });

async function ask(path, options) {
  try {
    return await fetch(base + path, { ...options, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("无法连接中转服务，请检查网络后重试。", "The relay can't be reached: check your network and try again.");
  }
}

async function envelopeOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused(`收到无法识别的回答（HTTP ${response.status}）。`, `That was no answer of the relay's (HTTP ${response.status}).`);
  }
}

// Messages of relay's own are Chinese, then English, in one line.
function checked(envelope) {
  if (envelope.code === 200) return envelope;
  throw new Refused(`${envelope.code || ""} ${envelope.message || envelope.error?.message || ""}`.trim() || "?");
}

// -- chat

const PLACE = `relay.session ${location.pathname}`; // in the tab's own storage, which others of this origin may share

let session = "";
let asking = null;
let unread = false; // the session is one from before the page was loaded, and its text is not here yet
let reading = null;

function begin() {
  session = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  unread = false;
  store(null);
}

function store(id) {
  try {
    if (id) sessionStorage.setItem(PLACE, id);
    else sessionStorage.removeItem(PLACE);
  } catch {
    // a browser that keeps nothing: a reload begins anew
  }
}

function stored() {
  try {
    return /^[0-9a-f]{32}$/.exec(sessionStorage.getItem(PLACE) ?? "")?.[0] ?? null;
  } catch {
    return null;
  }
}

function resume() {
  const before = stored();
  if (!before) return begin();
  session = before;
  unread = true;
  return nothing("刷新前的对话保存在中转上，填写密钥后显示。",
    "The relay has the conversation from before you reloaded: enter your key to see it.");
}

function nothing(zh, en) {
  at("log").replaceChildren(element("p", "empty", both(zh, en)));
}

// What relay keeps of this conversation, asked of relay itself.
async function history(secret) {
  const mine = session;
  const kept = checked(await envelopeOf(await ask(`${settings.chat.path}/${mine}`, bearer(secret))));
  if (mine !== session) return [];
  const turns = kept.data.length / 2;
  const [zh, en] = lasting(settings.chat.session_ttl);
  at("memory").replaceChildren(turns ? both(`已保存此对话的 ${turns} 轮消息，最后一轮之后保留 ${zh}。`,
    `The relay keeps ${turns} ${turns === 1 ? "turn" : "turns"} of this conversation, until ${en} after the last.`) : "");
  return kept.data;
}

// Show the conversation from before the page was loaded, once.
function restore(secret) {
  if (!unread) return Promise.resolve();
  reading ??= read(secret).finally(() => { reading = null; });
  return reading;
}

async function read(secret) {
  const mine = session;
  const messages = await history(secret);
  if (mine !== session) return;
  if (!messages.length) {
    nothing("这个密钥下没有刷新前的对话：它已过期，或属于另一个密钥。",
      "Under this key there is no conversation from before you reloaded: it has expired, or is another key's.");
    return;
  }
  unread = false;
  at("log").replaceChildren();
  for (const { role, content } of messages) {
    if (mine !== session) return;
    if (role === "user") show(element("div", "said user", content));
    else await markdown(show(element("div", "said assistant"))).finish(content);
  }
}

async function remember(secret) {
  try {
    await history(secret);
  } catch {
    at("memory").replaceChildren(); // not what was asked for: the chat itself says what is wrong
  }
}

// A change of the log: who reads its end sees what comes, and who has scrolled up stays there.
function moved(change) {
  const log = at("log");
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 32;
  const before = log.scrollTop;
  change();
  log.scrollTop = follows ? log.scrollHeight : before;
}

function show(node) {
  moved(() => {
    at("log").querySelector(".empty")?.remove();
    at("log").append(node);
  });
  return node;
}

const markdown = (box) => new Markdown(box, copyButton, moved);

// -- models

let listed = null; // the key whose models are shown

async function models() {
  const secret = given();
  if (!settings.chat?.chooses || !secret || secret === listed) return;
  listed = secret;
  let names = [];
  try {
    const list = await envelopeOf(await ask("/v1/models", bearer(secret)));
    if (!Array.isArray(list.data)) checked(list);
    names = list.data.map(({ id }) => id).filter((id) => typeof id === "string" && id && id.length <= 256);
    if (secret === listed) at("model-hint").replaceChildren();
  } catch (error) {
    if (secret !== listed) return;
    listed = null;
    const words = error instanceof Refused ? error.words : "?";
    at("model-hint").replaceChildren(both("无法列出模型：", "The models can't be listed: "), words);
  }
  if (secret === listed || listed === null) offer(names);
}

function offer(names) {
  const before = at("model").value;
  const others = [...new Set(names)].filter((name) => name !== settings.model).sort();
  const options = others.slice(0, 2000).map((name) => new Option(name, name));
  at("model").replaceChildren(at("usual"), ...options);
  at("model").value = options.some(({ value }) => value === before) ? before : "";
}

// -- messages

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const whole = (held + value).split("\n\n");
    held = whole.pop();
    for (const event of whole) {
      if (event.startsWith("data:")) yield JSON.parse(event.slice(5));
    }
  }
}

async function answer(response, told) {
  if (!(response.headers.get("Content-Type") || "").startsWith("text/event-stream")) {
    return checked(await envelopeOf(response)).data;
  }
  try {
    for await (const event of events(response.body)) {
      if (!("delta" in event)) return checked(event).data;
      told.push(event.delta);
    }
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") throw error;
  }
  throw new Refused("回答中断了，这一轮没有保存。请重试。", "The answer broke off, and this turn was not kept. Try again.");
}

async function send(content) {
  const secret = key();
  const mine = new AbortController();
  asking = mine;
  busy(true);
  let bubble = null;
  let told = null;
  try {
    await restore(secret);
    mine.signal.throwIfAborted();
    unread = false;
    store(session);
    show(element("div", "said user", content));
    at("log").scrollTop = at("log").scrollHeight;
    bubble = show(element("div", "said assistant waiting"));
    told = markdown(bubble);
    const model = at("model").value ? { model: at("model").value } : {};
    const response = await ask(settings.chat.path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ apiKey: secret, sessionId: session, content, stream: true, ...model }),
      signal: mine.signal,
    });
    await told.finish(await answer(response, told));
    if (asking === mine) tell(bubble.textContent.slice(0, 1000));
    at("content").value = at("content").value === content ? "" : at("content").value;
    count();
  } catch (error) {
    if (told?.text) {
      await told.finish();
      bubble.classList.add("partial");
    } else {
      bubble?.remove();
    }
    if (asking === mine) complain(error); // else a new conversation has begun
  } finally {
    bubble?.classList.remove("waiting");
    if (asking === mine) {
      asking = null;
      busy(false);
      remember(secret);
    }
  }
}

function complain(error) {
  let words = error.words;
  if (error.name === "AbortError") words = both("已停止，这一轮没有保存。", "Stopped; this turn was not kept.");
  else if (!(error instanceof Refused)) throw error;
  tell(words.cloneNode(true));
  show(element("p", error.name === "AbortError" ? "aside" : "error", words));
}

function busy(is) {
  at("send").hidden = is;
  at("stop").hidden = !is;
  at("log").setAttribute("aria-busy", String(is));
  if (!is && document.activeElement === document.body) at("content").focus({ preventScroll: true });
}

function count() {
  const length = [...at("content").value].length;
  at("count").textContent = `${length} / ${settings.chat.max_content}`;
  at("count").className = length > settings.chat.max_content ? "over" : "";
  at("send").disabled = !length || length > settings.chat.max_content;
}

function restart() {
  const old = session;
  const spoken = unread || Boolean(at("log").querySelector(".user"));
  asking?.abort();
  asking = null;
  begin();
  at("log").replaceChildren(nothingSaid.cloneNode(true));
  at("memory").replaceChildren();
  busy(false);
  at("content").focus();
  const secret = given();
  if (spoken && secret) {
    ask(`${settings.chat.path}/${old}`, { method: "DELETE", ...bearer(secret) }).catch(() => {});
  }
}

const nothingSaid = at("log").querySelector(".empty");

function chat() {
  resume();
  count();
  at("choice").hidden = !settings.chat.chooses;
  at("usual").textContent = settings.model;
  at("model").addEventListener("focus", models);
  at("key").addEventListener("change", () => {
    models();
    const secret = given();
    if (secret && !asking) restore(secret).catch(() => {}); // a message says what is wrong
  });
  at("content").addEventListener("input", count);
  at("content").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    at("chat").requestSubmit();
  });
  at("chat").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!asking && !at("send").disabled) send(at("content").value).catch(complain);
  });
  at("stop").addEventListener("click", () => asking?.abort());
  at("new").addEventListener("click", restart);
}

// -- balance

const SIGNS = { USD: "$", CNY: "¥" };

function fact(zh, en, shown) {
  return element("div", "", element("dt", "", both(zh, en)), element("dd", "", shown));
}

// What an upstream does not tell is null: it is unknown, and not 0.
function money(value, currency = "USD", digits = 2) {
  if (value === null || value === undefined) return both("未知", "unknown");
  return `${SIGNS[currency] ?? `${currency} `}${value.toFixed(digits)}`;
}

async function balance() {
  const button = at("ask-balance");
  button.disabled = true;
  try {
    const { data, detail } = checked(await envelopeOf(await ask(settings.balance.path, bearer(key()))));
    const list = detail?.unlimited
      ? [fact("额度", "Granted", both("不限", "unlimited"))]
      : [fact("总额", "Granted", money(data.total, detail?.currency))];
    list.push(fact("已用", "Used", money(data.used, detail?.currency)));
    if (!detail?.unlimited) list.push(fact("余额", "Left", money(data.balance, detail?.currency)));
    at("balance").replaceChildren(element("dl", "", ...list));
    if (detail?.source === "relay") at("balance").append(...await used());
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    at("balance").replaceChildren(element("p", "error", error.words));
  } finally {
    button.disabled = false;
  }
}

// -- what a key of relay's own has used, by day and by model

async function used() {
  const usage = await envelopeOf(await ask("/v1/dashboard/billing/usage", bearer(key())));
  if (!Array.isArray(usage.daily_costs)) return [];
  const days = new Map(lastDays(31).map((day) => [day, 0]));
  const models = new Map();
  for (const { timestamp, line_items } of usage.daily_costs) {
    const day = new Date(timestamp * 1000).toISOString().slice(0, 10);
    for (const { name, cost } of line_items) {
      days.set(day, (days.get(day) ?? 0) + cost / 100);
      models.set(name, (models.get(name) ?? 0) + cost / 100);
    }
  }
  const today = lastDays(1)[0];
  const month = [...days].filter(([day]) => day.startsWith(today.slice(0, 7))).reduce((sum, [, cost]) => sum + cost, 0);
  const facts = element("dl", "", fact("今天", "Today", money(days.get(today), "USD", 4)), fact("本月", "This month", money(month, "USD", 4)));
  return models.size ? [facts, chart([...days]), byModel(models)] : [facts];
}

function lastDays(count) {
  return Array.from({ length: count }, (_, back) => new Date(Date.now() - (count - 1 - back) * 86400000).toISOString().slice(0, 10));
}

function chart(days) {
  const most = Math.max(...days.map(([, cost]) => cost));
  const bars = days.map(([day, cost]) => {
    const bar = element("span", cost ? "" : "none");
    bar.style.height = `${Math.max(2, Math.round(100 * cost / most))}%`;
    bar.title = `${day}: ${money(cost, "USD", 4)}`;
    return bar;
  });
  const made = element("div", "days", ...bars);
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", `${days[0][0]} – ${days.at(-1)[0]}: ${money(days.reduce((sum, [, cost]) => sum + cost, 0), "USD", 4)}`);
  return made;
}

function byModel(models) {
  const most = Math.max(...models.values());
  const rows = [...models].sort(([, one], [, other]) => other - one).slice(0, 8).map(([name, cost]) => {
    const bar = element("span", "share");
    bar.style.width = `${Math.max(1, Math.round(100 * cost / most))}%`;
    return element("li", "", element("span", "model", name), element("span", "cost", money(cost, "USD", 4)), bar);
  });
  return element("ul", "models", ...rows);
}

// -- all of it

fill();
limits();
notes();
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button, at(button.dataset.copy)));
}
if (settings.chat) chat();
if (settings.balance) at("ask-balance").addEventListener("click", balance);
