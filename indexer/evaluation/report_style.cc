// The page's style sheet. Colors are pairs of light and dark; tests/test_report_page.py computes their contrasts. On
// paper the light ones are used. Nothing is said by color alone: tints have lines, marks have shapes.
#include "indexer/evaluation/report_sections.h"

namespace pointsman {

std::string_view ReportStyle() {
  return R"(
:root{color-scheme:light dark;--paper:#ffffff;--panel:#f5f7fa;--ink:#1a2330;--soft:#536072;--line:#d3dae4;--track:#e8ecf2;--accent:#0a5aa8;
--adopt:#0f6b35;--reject:#b3261e;--inconclusive:#7a4f00;
--b1:#e3effb;--b2:#c3ddf7;--b3:#9cc6f0;--b4:#74ade6;--w1:#fdeedd;--w2:#fbd9b4;--w3:#f6bd82;--w4:#ee9f52;--better:#0a5aa8;--worse:#9a4a00}
@media screen and (prefers-color-scheme:dark){:root{--paper:#12161c;--panel:#1a2029;--ink:#e6eaf0;--soft:#a3aebd;--line:#38424f;--track:#28303b;--accent:#78b7ff;
--adopt:#5fd08f;--reject:#ff9087;--inconclusive:#f2bd55;
--b1:#12304d;--b2:#154069;--b3:#195286;--b4:#1f67a8;--w1:#3d2912;--w2:#573813;--w3:#724812;--w4:#8c590d;--better:#78b7ff;--worse:#f5a55a}}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);background:var(--paper);max-width:72rem;margin:0 auto;padding:1.5rem 1rem 3rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 1rem}h2{font-size:1.25rem;margin:2.5rem 0 .5rem}h3{font-size:1.05rem;margin:1.75rem 0 .4rem}h4{font-size:1rem;margin:0 0 .3rem}
p{margin:.5rem 0;max-width:48rem}ul,ol{margin:.4rem 0;padding-left:1.4rem}li{margin:.2rem 0;max-width:48rem}
a{color:var(--accent)}code{font:.9em ui-monospace,monospace;white-space:pre-wrap}.soft,caption,figcaption,dt{color:var(--soft)}header .soft{margin:0}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.verdict{border:1px solid var(--line);border-left:.5rem solid;border-radius:.4rem;padding:1rem 1.2rem;background:var(--panel)}
.verdict h2{margin:0}.verdict h3{margin:1.1rem 0 .2rem}.reason{font-size:1.1rem}
.adopt{border-left-color:var(--adopt)}.reject{border-left-color:var(--reject)}.inconclusive{border-left-color:var(--inconclusive)}
.adopt .word{color:var(--adopt)}.reject .word{color:var(--reject)}.inconclusive .word{color:var(--inconclusive)}
.cards,.explained,.plots{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr));margin:1rem 0}
.plots{grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1.5rem 2.5rem}
.explained{grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
.card{border:1px solid var(--line);border-radius:.4rem;padding:.7rem .9rem;background:var(--paper);min-width:0}.card p,.card li{font-size:.9rem}
dd{margin:0}.figure{display:block;font-size:1.6rem;font-weight:650;font-variant-numeric:tabular-nums;line-height:1.3}.line{display:block;font-size:.9rem}
nav ul{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:1.2rem 0 0}
figure{margin:0;min-width:0}figcaption{font-size:.9rem;margin-bottom:.4rem}figcaption strong{color:var(--ink);font-weight:600}
svg{display:block;overflow:visible}svg text{fill:var(--ink);font-size:13px;paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}svg .soft,svg .value{fill:var(--soft);font-size:12px}svg .value{font-variant-numeric:tabular-nums}
.grid{stroke:var(--line)}.track{stroke:var(--track)}.zero{stroke:var(--soft)}.bound{stroke:var(--reject);stroke-width:1.5;stroke-dasharray:5 3}
.bar{stroke:var(--soft);stroke-width:3}.mark{fill:var(--soft)}.mark .hollow{fill:var(--paper);stroke:var(--soft);stroke-width:2}
.strong .bar{stroke:var(--accent)}.strong .mark{fill:var(--accent)}.strong text,.strong text.value{fill:var(--accent);font-weight:650}
.rest{fill:var(--track)}.part{fill:var(--accent)}
.scroll{overflow-x:auto;margin:1rem 0}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;white-space:nowrap}
caption{text-align:left;font-size:.9rem;padding-bottom:.3rem;white-space:normal}caption span{display:inline-block;position:sticky;left:0;max-width:min(48rem,calc(100vw - 2.5rem))}
th,td{padding:.25rem .8rem .25rem 0;text-align:right;border-bottom:1px solid var(--line)}th:first-child{text-align:left}
thead th{color:var(--soft);font-weight:600;vertical-align:bottom;border-bottom-color:var(--soft)}tbody th{font-weight:400;position:sticky;left:0;background:var(--paper)}
tr.memory th,tr.memory td{font-weight:650;color:var(--accent)}
.passage{font:.85rem/1.9 ui-monospace,monospace;white-space:pre-wrap;border:1px solid var(--line);border-radius:.4rem;padding:.7rem .9rem;margin:.6rem 0;tab-size:4;unicode-bidi:isolate}
.b1,.b2,.b3,.b4,.w1,.w2,.w3,.w4{border-radius:.15rem;border-bottom:2px solid var(--better);-webkit-print-color-adjust:exact;print-color-adjust:exact}
.w1,.w2,.w3,.w4{border-bottom:2px dotted var(--worse)}
.b1{background:var(--b1)}.b2{background:var(--b2)}.b3{background:var(--b3)}.b4{background:var(--b4)}
.w1{background:var(--w1)}.w2{background:var(--w2)}.w3{background:var(--w3)}.w4{background:var(--w4)}
.break{opacity:.55}.legend span{padding:0 .35rem;white-space:nowrap}
.facts div{display:grid;grid-template-columns:12rem 1fr;gap:0 1rem;padding:.2rem 0;border-bottom:1px solid var(--line);font-size:.9rem}.facts dd{white-space:pre-wrap;min-width:0}
@media(max-width:36rem){.facts div{grid-template-columns:1fr}h1{font-size:1.3rem}.verdict{padding:.8rem .9rem}}
@media print{@page{size:A4;margin:14mm}body{font-size:10.5pt;padding:0;max-width:none}nav{display:none}.scroll{overflow:visible}
table{font-size:8pt}th,td{padding-right:.45rem}h2,h3,h4,figcaption,.legend{break-after:avoid}figure,tr,.card,.verdict{break-inside:avoid}.plots{grid-template-columns:1fr 1fr}.cards,.explained{grid-template-columns:1fr 1fr 1fr;gap:.5rem}.card{padding:.4rem .6rem}.explained .card *{font-size:8pt}
.passage{font-size:8.5pt}section>p:first-of-type{break-after:avoid}tbody th{position:static}}
)";
}

}  // namespace pointsman
