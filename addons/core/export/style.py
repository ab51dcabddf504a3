"""How an exported page looks: one style sheet, for screens of any width, light and dark, and for paper."""

import base64
import hashlib

STYLE = """
:root{color-scheme:light dark;--ground:#fff;--raised:#f5f6f8;--text:#1c2024;--dim:#5b6470;--line:#d9dde3;
--link:#0b57b0;--cached:#8fb8de;--new:#2f6db3;--output:#d98324;--bad:#a8321f;--user:#eaf2fb;--tool:#f4f1ea}
@media(prefers-color-scheme:dark){:root{--ground:#15181c;--raised:#1e2329;--text:#e4e7eb;--dim:#9aa4b0;--line:#343b44;
--link:#7db4f5;--cached:#3f6486;--new:#6fa8e6;--output:#e6a04f;--bad:#f08a78;--user:#1c2a3a;--tool:#26241e}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--ground);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI","Noto Sans","PingFang SC","Microsoft YaHei",sans-serif}
h1{font-size:1.35rem;line-height:1.25;margin:.5rem 0 1rem}
h2{font-size:1.2rem;margin:2rem 0 .5rem;border-top:2px solid var(--line);padding-top:1rem}
h3{font-size:1rem;margin:1.5rem 0 .5rem}
a{color:var(--link)}
code,pre,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Noto Sans Mono",monospace;font-size:.875em}
pre{margin:.5rem 0;padding:.6rem .7rem;background:var(--raised);border-radius:6px;white-space:pre-wrap;
overflow-wrap:anywhere}
p{margin:.5rem 0;white-space:pre-wrap;overflow-wrap:anywhere}
.dim{color:var(--dim)}
.bad{color:var(--bad)}
.facts{display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:.25rem 0;color:var(--dim);font-size:.875rem}
.facts b{color:var(--text);font-weight:600}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.875rem;margin:.5rem 0}
th,td{text-align:right;padding:.3rem .5rem;border-bottom:1px solid var(--line);vertical-align:top;
font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left;padding-left:0;max-width:14rem;overflow-wrap:break-word}
th{color:var(--dim);font-weight:600}
.chart{margin:1rem 0}
.chart svg{display:block;width:100%;height:10rem;background:var(--raised);border-radius:6px}
.axis{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem;color:var(--dim);font-size:.8rem;
padding:.2rem 0}
.legend{display:flex;flex-wrap:wrap;gap:0 .9rem}
.key{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.35em}
.key.cached{background:var(--cached)}.key.new{background:var(--new)}.key.output{background:var(--output)}
.key.unknown{background:var(--dim)}
rect.cached{fill:var(--cached)}rect.new{fill:var(--new)}rect.output{fill:var(--output)}rect.unknown{fill:var(--dim)}
.call{border-top:1px solid var(--line);margin-top:1.5rem;padding-top:.25rem}
.call h3{margin:.6rem 0 .1rem;display:flex;flex-wrap:wrap;gap:0 .75rem}
.cause{border-left:4px solid var(--output);padding:.1rem .8rem;margin:.5rem 0;font-size:.875rem;
overflow-wrap:anywhere}
.cause.fine{border-color:var(--cached)}
.cause p{margin:.2rem 0}
.turn{margin:.6rem 0;padding:.35rem .75rem;border-radius:8px;border:1px solid var(--line)}
.turn.user{background:var(--user)}
.turn.tool{background:var(--tool)}
.who{color:var(--dim);font-size:.8rem;font-weight:600}
details{margin:.35rem 0}
summary{cursor:pointer;overflow-wrap:anywhere;padding:.15rem 0}
.think{color:var(--dim);font-style:italic}
nav ul{padding-left:1.2rem;margin:.5rem 0}
nav li{margin:.3rem 0;overflow-wrap:anywhere}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:.5rem;color:var(--dim);font-size:.8rem}
@media(max-width:30rem){body{padding:.75rem;font-size:15px}.turn{padding:.3rem .55rem}th,td{padding:.3rem .35rem}}
@media print{
:root{--ground:#fff;--raised:#f5f6f8;--text:#000;--dim:#444;--line:#bbb;--link:#000;--cached:#9fc3e6;--new:#2f6db3;
--output:#d98324;--bad:#a8321f;--user:#f2f6fb;--tool:#f8f6f1;color-scheme:light}
body{max-width:none;padding:0;font-size:10pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}
a{text-decoration:none}
h2,h3,.facts,summary{break-after:avoid}
tr,.cause,.chart{break-inside:avoid}
.wide{overflow:visible}
details:not(.schema)::details-content{display:block;content-visibility:visible;block-size:auto;opacity:1}
}
""".strip()

HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""By which a page's policy allows this style sheet, and no other."""

POLICY = f"default-src 'none'; style-src '{HASH}'; base-uri 'none'; form-action 'none'"
"""The page asks for nothing and runs nothing."""
