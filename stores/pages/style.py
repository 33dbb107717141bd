"""The pages' style sheet: one column on a phone, light and dark after the reader's own setting, plain in print."""

COLOURS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --card: #f6f8fa; --line: #d0d7de;
  --accent: #0b5fa5; --raw: #a5c4de; --good: #116329; --bad: #a40e26; --mark: #fff1c2;
  --v0: #8a5a00; --v1: #006ba6; --v2: #00704f; --v3: #9c4a7f;
  --s0: #0b5fa5; --s1: #b34700; --s2: #00695c; --s3: #8e3a80; --s4: #616000; --s5: #a40e26; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #a3adb8; --paper: #0d1117; --card: #161b22;
  --line: #30363d; --accent: #6cb6ff; --raw: #2f5579; --good: #5fd27f; --bad: #ff8f8f;
  --mark: #4a3a06; --v0: #e69f00; --v1: #4db2f0; --v2: #2fc79b; --v3: #dd9ac2;
  --s0: #6cb6ff; --s1: #ffa657; --s2: #5fd2b3; --s3: #e0a3d8; --s4: #d6cf60; --s5: #ff8f8f; } }
"""
CHARTS = """
svg { display: block; width: 100%; height: auto; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .tick { stroke: var(--soft); }
svg .axis { fill: var(--soft); font-size: 12px; font-family: inherit; }
svg polyline { fill: none; stroke-linejoin: round; } svg .raw { stroke: var(--raw); stroke-width: 1.2; }
svg .line { stroke-width: 2.2; }
svg circle.line, svg circle.raw { fill: none; stroke-width: 5; stroke-dasharray: none; }
svg .s0 { stroke: var(--s0); } svg .s1 { stroke: var(--s1); stroke-dasharray: 8 4; }
svg .s2 { stroke: var(--s2); stroke-dasharray: 2 3; } svg .s3 { stroke: var(--s3); stroke-dasharray: 10 3 2 3; }
svg .s4 { stroke: var(--s4); stroke-dasharray: 5 2; } svg .s5 { stroke: var(--s5); stroke-dasharray: 14 4; }
"""
CSS = (
    COLOURS
    + CHARTS
    + """
* { box-sizing: border-box; }
h1, h2, h3, h4, nav a, summary { overflow-wrap: anywhere; } h4 { margin: 0 0 .4rem; font-size: .95rem; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 0 0 .4rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .4rem 0; }
p.note, figcaption, .facts { color: var(--soft); font-size: .875rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
code { font: .875em ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
a { color: var(--accent); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: .8rem 0 0; padding: 0; }
dl.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem;
  margin: 1.2rem 0 0; }
dl.headline div { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; }
dl.headline dt { color: var(--soft); font-size: .8rem; } dl.headline dd { margin: 0; font-size: 1.3rem;
  font-weight: 600; }
dl.headline small { font-size: .8rem; font-weight: 400; color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.charts figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .7rem .7rem .3rem; }
.charts figcaption { color: var(--ink); }
figcaption .unit { font-weight: 400; color: var(--soft); }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .2rem 0 .4rem; padding: 0;
  font-size: .875rem; overflow-wrap: anywhere; }
ul.legend svg.key { display: inline-block; width: 1.75rem; vertical-align: middle; margin-right: .4rem; }
.scroll { overflow-x: auto; position: relative; margin-bottom: .8rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
tr.differs th, tr.differs td { background: var(--mark); } mark { background: var(--mark); color: inherit; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .925rem; }
th, td { text-align: left; padding: .35rem 1.1rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: middle; }
td.n, th.n { text-align: right; } thead th { color: var(--soft); font-weight: 600; font-size: .85rem; }
tbody th { font-weight: 500; min-width: 7rem; overflow-wrap: anywhere; }
td img { display: block; height: 3.2rem; width: auto; border-radius: 3px; }
.better { color: var(--good); } .worse { color: var(--bad); }
.example { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .8rem;
  margin: 0 0 1rem; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(4.4rem, 11rem); gap: .7rem;
  align-items: start; justify-content: start; overflow-x: auto; }
.strip + .strip { margin-top: .7rem; }
.strip figure { margin: 0; } .strip img { display: block; width: 100%; height: auto; border-radius: 4px;
  background: var(--line); }
.strip .view img { border: 3px solid var(--edge); }
.strip .view img + img { margin-top: .25rem; } .strip figcaption { line-height: 1.35; margin-top: .25rem; }
.strip .view b { color: var(--edge); }
.strips { display: flex; flex-wrap: wrap; gap: .7rem 1.4rem; align-items: start; }
.strips .strip { margin: 0; max-width: 100%; grid-auto-columns: minmax(4.4rem, 8.5rem); }
.strip.small { grid-auto-columns: minmax(3.6rem, 7rem); margin-top: .7rem; }
.v0 { --edge: var(--v0); } .v1 { --edge: var(--v1); } .v2 { --edge: var(--v2); } .v3 { --edge: var(--v3); }
  .local { --edge: var(--soft); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 1.5rem; }
.columns > * { min-width: 0; }
p.verdict { font-size: 1.15rem; margin: 1rem 0; }
ul.bars { list-style: none; margin: .8rem 0; padding: 0; display: grid; gap: .5rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
ul.bars li { display: grid; align-content: start; grid-template-columns: 1fr auto; column-gap: .6rem; }
ul.bars small { color: var(--soft); font-size: .8rem; } ul.bars li > small { grid-column: 1 / -1; }
.bar { grid-column: 1 / -1; position: relative; height: .6rem; border-radius: .3rem; background: var(--line); }
.bar span { display: block; height: 100%; border-radius: .3rem; background: var(--accent); }
.bar i { position: absolute; top: -.15rem; bottom: -.15rem; width: 2px; background: var(--ink); }
@media print { .bar, .bar span { print-color-adjust: exact; } }
td.value { overflow-wrap: anywhere; }
dl.kinds { columns: 17rem; } dl.kinds dt { break-after: avoid; } dl.kinds dd { break-inside: avoid; }
dl.kinds dt { font-weight: 600; } dl.kinds dd { margin: 0 0 .4rem; color: var(--soft); }
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .scroll, pre { overflow: visible; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  details::details-content { content-visibility: visible; display: block; block-size: auto; }
  summary { color: inherit; }
  h2, h3 { break-after: avoid; } figure, article, tr { break-inside: avoid; } a { color: inherit; } }
@media (max-width: 30rem) { .strip figcaption { font-size: .75rem; overflow-wrap: anywhere; }
  .strips .strip { grid-auto-columns: minmax(4.4rem, 6.2rem); } table { font-size: .82rem; }
  th, td { padding-right: .45rem; }
  tr > :last-child { padding-right: 0; } td img { height: 2.4rem; } }
"""
)
