"""The style of a claim's page: colours for light, dark and paper; the sheet in print."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636d; --rule: #d5dade; --paper: #fff; --tint: #f4f6f7;
  --va: #0072b2; --re: #4a5159; --tr: #c47f00; --up: #00694c; --down: #a8430a; --flat: #4a5159; --open: #6d5300; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebee; --soft: #a0aab3; --rule: #3a424a; --paper: #14181c; --tint: #1c2228;
    --va: #56b4e9; --re: #c3cad1; --tr: #f0b429; --up: #4fd1a5; --down: #ff9d6b; --flat: #b4bdc6; --open: #e3c25a; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #4a525a; --rule: #c9d0d6; --paper: #fff; --tint: #f4f6f7;
    --va: #0072b2; --re: #4a5159; --tr: #c47f00; --up: #00694c; --down: #a8430a; --flat: #4a5159; --open: #6d5300; }
}
* { box-sizing: border-box; }
html { font-size: 14px; -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; padding: 2rem 1.2rem; background: var(--paper); color: var(--ink); font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 58rem; margin: 0 auto; }
h1, h2, h3, p, ul, ol, dl, dd, figure { margin: 0; padding: 0; }
h1 { font-size: 1.6rem; line-height: 1.2; letter-spacing: -.01em; text-wrap: balance; overflow-wrap: anywhere; }
section h2, footer h2 { font-size: .95rem; margin: 0 0 .4rem; padding-bottom: .2rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: .85rem; font-weight: 600; margin-bottom: .25rem; }
p, li, dd, td, th { overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); } .small, figcaption { font-size: .8rem; line-height: 1.35; }
.kicker { color: var(--soft); font-size: .85rem; margin-bottom: .3rem; }
.pair { font-size: 1.05rem; margin: .5rem 0 .15rem; }
.name { font-weight: 600; }
section, .two, footer { margin-top: 1.4rem; }
.key, .bar, .pin, .tri { display: inline-block; width: .75em; height: .75em; margin-right: .35em; vertical-align: -.04em; }
.key.va { background: var(--va); border-radius: 2px; } .key.re { border: 2px solid var(--re); border-radius: 2px; }
.bar { width: 0; border-left: 2px solid var(--ink); height: .9em; } .pin { width: 0; border-left: 3px solid var(--tr); height: .9em; }
.tri { width: 0; height: 0; border: .36em solid transparent; border-top: 0; border-bottom: .62em solid var(--soft); }
svg { display: block; width: 100%; height: auto; font: 10px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--ink); overflow: visible; }
svg .soft { fill: var(--soft); font-size: 8.5px; } svg .strong { font-weight: 700; } svg .value { font-variant-numeric: tabular-nums; }
.zero { stroke: var(--ink); stroke-width: 1; } .mark { stroke: var(--soft); stroke-width: .8; } .axis { stroke: var(--rule); stroke-width: 1; }
.band { fill: var(--va); opacity: .13; }
.up { --tone: var(--up); } .down { --tone: var(--down); } .flat { --tone: var(--flat); }
.range { stroke: var(--tone); stroke-width: 1.6; } .mean { fill: var(--tone); } .up .value, .down .value { fill: var(--tone); font-weight: 700; }
.seed { fill: var(--soft); opacity: .75; } .flat .mean { fill: var(--paper); stroke: var(--tone); stroke-width: 1.6; }
.dot.va { fill: var(--va); } .dot.re { fill: var(--paper); stroke: var(--re); stroke-width: 1.4; }
.line.va { stroke: var(--va); stroke-width: 1.4; } .line.re { stroke: var(--re); stroke-width: 1.4; }
.bars { fill: var(--va); fill-opacity: .5; } .outline { fill: none; stroke: var(--re); stroke-width: 1.3; stroke-linejoin: round; }
.only.re { stroke: var(--re); stroke-width: 1.5; stroke-dasharray: 3 2; } .only.va { stroke: var(--va); stroke-width: 1.8; stroke-dasharray: 3 2; }
.target { stroke: var(--ink); stroke-width: 1.2; } .pin.tr, svg .pin { stroke: var(--tr); stroke-width: 1.8; } .head { fill: var(--tr); }
.place.va { fill: var(--va); } .place.re { fill: var(--paper); stroke: var(--re); stroke-width: 1.1; }
.photo { border-radius: 3px; overflow: hidden; } .ground { fill: var(--tint); }
.rim { fill: none; stroke: #000; stroke-opacity: .55; stroke-width: 3.4; } .box { fill: none; stroke-width: 1.8; }
.box.gt { stroke: #fff; } .box.va { stroke: #2d9fe0; } rect.box.re { stroke: #fff; stroke-dasharray: 4 3; }
.verdict { display: grid; grid-template-columns: 1fr 1.1fr; gap: .3rem 1.6rem; padding: 1rem 1.1rem; background: var(--tint); border-left: 5px solid var(--tone); border-radius: 4px; }
.verdict.better { --tone: var(--up); } .verdict.worse { --tone: var(--down); } .verdict.equivalent { --tone: var(--va); }
.verdict.inconclusive { --tone: var(--open); } .verdict.none { --tone: var(--flat); }
.verdict h2 { display: flex; align-items: center; gap: .5rem; font-size: 1.45rem; line-height: 1.15; color: var(--tone); border: 0; padding: 0; margin: 0; }
.verdict h2 svg { width: 1.35rem; height: 1.35rem; flex: none; fill: var(--tone); }
.verdict > h2, .verdict > .sentence { grid-column: 1 / -1; }
.verdict .sentence { font-size: 1.12rem; font-weight: 600; line-height: 1.3; margin-bottom: .3rem; }
.caveats { color: var(--soft); font-size: .88rem; } .caveats p { margin-top: .25rem; }
.warning { color: var(--down); font-weight: 600; }
figcaption { margin-top: .2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .28rem .45rem; font-weight: 400; vertical-align: middle; }
thead th { color: var(--soft); font-size: .82rem; vertical-align: bottom; }
tbody th { text-align: left; padding-left: 0; } .numbers td { white-space: nowrap; overflow-wrap: normal; }
.numbers .dots { width: 12rem; min-width: 11rem; padding-right: 0; white-space: nowrap; } .numbers tbody th { min-width: 9rem; }
.delta th .soft { font-weight: 400; font-size: .85em; } .delta > * { border-top: 1px solid var(--rule); font-weight: 600; } .delta td.up { color: var(--up); } .delta td.down { color: var(--down); }
.three { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1.4rem; }
.two { display: grid; grid-template-columns: 1fr 1.1fr; gap: 1.6rem; } .two > * { margin: 0; min-width: 0; } .two > div > section { margin: 0; } .two footer { margin-top: 1.1rem; }
.trials span { white-space: nowrap; margin-right: .9em; font-variant-numeric: tabular-nums; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; font-size: .85rem; margin-bottom: .4rem; }
div.box { display: grid; grid-template-columns: 6.2rem 1fr; gap: 1rem; margin-bottom: .5rem; align-items: start; }
.sides { display: grid; grid-template-columns: repeat(4, 1fr); gap: .9rem; }
.settings { font-size: .88rem; } .settings th, .settings td { padding: .12rem .3rem; text-align: left; } .settings tbody th { padding-left: 0; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.commands { list-style: none; margin-bottom: .4rem; } .commands li { background: var(--tint); padding: .1rem .4rem; margin-bottom: .15rem; border-radius: 3px; line-height: 1.35; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .05rem .8rem; font-size: .85rem; } dt { color: var(--soft); } .wide { grid-column: 1 / -1; }
footer ul { padding-left: 1.1rem; } footer { color: var(--soft); font-size: .82rem; line-height: 1.4; } footer h2 { color: var(--ink); }
@media (max-width: 640px) {
  body { padding: 1.2rem .9rem; } .verdict, .three, .two { grid-template-columns: minmax(0, 1fr); }
  .sides { grid-template-columns: repeat(2, 1fr); } div.box { grid-template-columns: minmax(0, 1fr); } .photo { max-width: 9rem; }
  .three svg { max-width: 24rem; }
}
@page { size: A4; margin: 9mm 12mm 8mm; }
@media print {
  html { font-size: 10.3px; } body { padding: 0; -webkit-print-color-adjust: exact; print-color-adjust: exact; } main { max-width: none; }
  section, .two, footer { margin-top: .8rem; } .verdict { padding: .7rem .9rem; } .two footer { margin-top: .7rem; }
  th, td { padding-top: .2rem; padding-bottom: .2rem; } section, figure, table, div.box { break-inside: avoid; }
  .scroll { overflow: visible; } .two { gap: 1.4rem; }
}
""".strip()
