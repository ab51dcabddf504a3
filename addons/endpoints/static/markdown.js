// Markdown to elements: what a model writes, shown while it comes.
//
// 1. markdown-it says what the text means; from its tokens elements are made here, one by one. No HTML is ever parsed:
//    what looks like it is text, and the page's policy (Trusted Types) would refuse anything else.
// 2. A link leads to http, https or mailto, in a tab that knows nothing of this one. A picture is a link, too: loading it
//    would tell its server what was talked about.
// 3. What stands is rendered once. Of a text that grows the last blocks alone are read again, a bounded piece at a time,
//    and the more seldom the longer that takes.
"use strict";

const Markdown = (() => {
  const PIECE = 16384; // characters read at once; more where one block is longer
  const PAUSE = 100; // ms between two looks at a text that grows
  const SHARE = 4; // and so many times as long as the last look took
  const DEFINITION = /^ {0,3}\[[^\]\n]{1,200}\]:[^\n]*$/gm;
  const SAFE = new Set(["http:", "https:", "mailto:"]);
  const ELEMENTS = {
    paragraph: "p", bullet_list: "ul", ordered_list: "ol", list_item: "li", blockquote: "blockquote", table: "table",
    thead: "thead", tbody: "tbody", tr: "tr", th: "th", td: "td", em: "em", strong: "strong", s: "s",
  };
  const parser = markdownit({ html: false, linkify: true, breaks: true });
  parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

  function made(name, className = "", text = "") {
    const element = document.createElement(name);
    element.className = className;
    element.textContent = text;
    return element;
  }

  function link(address) {
    let url;
    try {
      url = new URL(address); // one that needs a base would lead into relay itself
    } catch {
      return made("span");
    }
    if (!SAFE.has(url.protocol)) return made("span");
    const element = made("a");
    Object.assign(element, { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" });
    return element;
  }

  function opened(token) {
    const kind = token.type.replace(/_open$/, "");
    if (kind === "link") return link(token.attrGet("href"));
    if (kind === "heading") { // below those of the page
      const level = Number(token.tag.slice(1));
      return made(`h${Math.min(6, level + 3)}`, `level${level}`);
    }
    const element = made(ELEMENTS[kind] ?? "span");
    if (kind === "ordered_list" && token.attrGet("start")) element.start = Number(token.attrGet("start"));
    if (kind === "th" || kind === "td") element.style.textAlign = (token.attrGet("style") ?? "").replace(/^text-align:/, "");
    return element;
  }

  function alone(token, button) {
    switch (token.type) {
      case "softbreak": case "hardbreak": return made("br");
      case "hr": return made("hr");
      case "code_inline": return made("code", "", token.content);
      case "fence": case "code_block": return code(token, button);
      case "image": {
        const element = link(token.attrGet("src"));
        element.textContent = token.content || token.attrGet("src");
        return element;
      }
      default: return document.createTextNode(token.content);
    }
  }

  function code(token, button) {
    const bar = made("div", "code-bar");
    bar.append(made("span", "", token.info.trim().split(/\s/)[0].slice(0, 30)));
    const text = made("code", "", token.content);
    if (button) bar.append(button(text));
    const area = made("pre");
    area.tabIndex = 0;
    area.append(text);
    const block = made("div", "code-block");
    block.append(bar, area);
    return block;
  }

  function elements(tokens, button) {
    const top = document.createDocumentFragment();
    const open = [top];
    for (const token of tokens) {
      const here = open.at(-1);
      if (token.nesting === -1) open.pop();
      else if (token.type === "inline") here.append(elements(token.children, button));
      else if (token.nesting === 0) here.append(alone(token, button));
      else if (token.hidden) open.push(here); // a paragraph of a tight list
      else {
        const element = opened(token);
        open.push(element);
        if (token.type === "table_open") { // it scrolls by itself
          const area = made("div", "table");
          area.tabIndex = 0;
          area.append(element);
          here.append(area);
        } else {
          here.append(element);
        }
      }
    }
    return top;
  }

  // Where a line begins: markdown-it ends lines at CR, LF and CRLF.
  function lineStart(text, line) {
    const ends = /\r\n?|\n/g;
    for (let passed = 0; passed < line && ends.exec(text); passed += 1);
    return line ? ends.lastIndex : 0;
  }

  // What a text refers to by name may be defined far below.
  function definitions(text) {
    const env = {};
    const lines = text.match(DEFINITION);
    if (lines) parser.parse(lines.join("\n\n"), env);
    return env.references ?? {};
  }

  return class {
    #box;
    #button;
    #moved;
    #text = "";
    #stands = 0;
    #piece = PIECE;
    #references = {};
    #loose = []; // nodes of the last blocks, which may still change
    #timer = null;
    #pause = 0;

    // `box` is filled; `button(code)` makes what stands over a block of code that is whole; `moved(change)` is called with
    // each change of the page, and makes it.
    constructor(box, button, moved) {
      this.#box = box;
      this.#button = button;
      this.#moved = moved;
    }

    get text() {
      return this.#text;
    }

    // More of the text has come.
    push(text) {
      this.#text += text;
      if (this.#timer === null) this.#timer = setTimeout(() => this.#look(), this.#pause);
    }

    // This is the text, whole; it stands when the promise is kept.
    async finish(text = this.#text) {
      clearTimeout(this.#timer);
      this.#timer = 0; // nothing may be begun any more
      const references = definitions(text);
      if (!text.startsWith(this.#text) || Object.keys(references).length) {
        this.#moved(() => this.#box.replaceChildren());
        this.#loose = [];
        this.#stands = 0;
      }
      this.#text = text;
      this.#references = references;
      while (this.#step(true)) await new Promise((next) => setTimeout(next));
    }

    #look() {
      const begun = performance.now();
      const more = this.#step(false);
      this.#pause = Math.max(PAUSE, SHARE * (performance.now() - begun));
      this.#timer = more ? setTimeout(() => this.#look(), this.#pause) : null;
    }

    // Render what is next; whether there is more. `last`: the text does not grow any more.
    #step(last) {
      let shown = this.#text.slice(this.#stands, this.#stands + this.#piece);
      const all = this.#stands + shown.length === this.#text.length;
      if (!all && shown.includes("\n")) shown = shown.slice(0, shown.lastIndexOf("\n") + 1);
      const tokens = parser.parse(shown, { references: { ...this.#references } });
      const tops = tokens.flatMap((token, at) => (token.level === 0 && token.nesting >= 0 ? [at] : []));
      // The last block may go on, and the start of a line may look like another block than its whole.
      const rest = all && last ? tokens.length : tops.at(-2) ?? 0;
      if (!all && !rest) {
        this.#piece *= 2;
        return true;
      }
      const standing = elements(tokens.slice(0, rest), this.#button);
      const loose = elements(tokens.slice(rest), null);
      this.#moved(() => {
        for (const node of this.#loose) node.remove();
        this.#loose = [...loose.childNodes];
        this.#box.append(standing, loose);
      });
      if (rest) {
        this.#stands += rest === tokens.length ? shown.length : lineStart(shown, tokens[rest].map[0]);
        this.#piece = PIECE;
      }
      return !all;
    }
  };
})();
