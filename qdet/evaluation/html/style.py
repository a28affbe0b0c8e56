"""The style sheet and the script of a report."""

CSS = """
:root { --ink:#1d2433; --faint:#667085; --line:#e4e7ec; --paper:#f7f8fa; --card:#fff; --blue:#2563eb;
  --soft:#dbe6fd; --green:#16a34a; --red:#dc2626; --amber:#d97706; --violet:#7c3aed; --grey:#98a2b3; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ef; --faint:#98a2b3; --line:#2c3444; --paper:#11151d;
  --card:#181e29; --blue:#6ea0ff; --soft:#22355c; --green:#4ade80; --red:#f87171; --amber:#fbbf24;
  --violet:#a78bfa; --grey:#667085; } }
* { box-sizing:border-box; }
body { margin:0; background:var(--paper); color:var(--ink); font:15px/1.5 system-ui,-apple-system,"Segoe UI",
  Roboto,"Helvetica Neue",Arial,sans-serif; }
main { max-width:1180px; margin:0 auto; padding:32px 24px 64px; }
h1 { font-size:26px; margin:0 0 2px; overflow-wrap:anywhere; } h2 { font-size:18px; margin:0 0 4px; }
h3 { font-size:14px; margin:0 0 8px; }
p { margin:0 0 12px; color:var(--faint); max-width:75ch; } p.lead { margin-bottom:20px; }
section { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:20px 22px;
  margin-top:18px; }
.cards { display:grid; grid-template-columns:repeat(8,1fr); gap:10px; }
@media (max-width:800px) { .cards { grid-template-columns:repeat(4,1fr); } }
.card { border:1px solid var(--line); border-radius:10px; padding:10px 12px; background:var(--card); }
.card.main { grid-column:span 2; grid-row:span 2; display:flex; flex-direction:column; justify-content:center;
  background:#2563eb; border-color:#2563eb; color:#fff; }
.card b { display:block; font-size:22px; line-height:1.25; font-variant-numeric:tabular-nums; }
.card.main b { font-size:46px; } .card span { font-size:12px; color:var(--faint); }
.card.main span { color:#fff; opacity:.85; }
.two { display:grid; grid-template-columns:repeat(auto-fit,minmax(380px,1fr)); gap:26px; }
.three { display:grid; grid-template-columns:repeat(auto-fit,minmax(300px,1fr)); gap:26px; }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; font-size:13.5px; }
th,td { text-align:right; padding:5px 9px; border-bottom:1px solid var(--line); white-space:nowrap; }
td:first-child,th:first-child,td.text,th.text { text-align:left; }
td.text { white-space:normal; min-width:130px; max-width:260px; overflow-wrap:anywhere; }
td svg { vertical-align:middle; }
th { color:var(--faint); font-weight:600; position:sticky; top:0; background:var(--card); }
table.sortable th { cursor:pointer; } table.sortable th:hover { color:var(--ink); }
.scroll { max-height:620px; overflow:auto; }
.bar { display:grid; grid-template-columns:minmax(96px,38%) 1fr 44px; gap:10px; align-items:center;
  margin:5px 0; font-size:13.5px; }
.bar i { display:block; height:16px; border-radius:4px; background:var(--blue); min-width:1px; }
.bar u { display:block; background:var(--soft); border-radius:4px; text-decoration:none; }
.bar span { overflow-wrap:anywhere; line-height:1.2; } .bar small { color:var(--faint); display:block; }
.bar b { text-align:right; font-weight:600; font-variant-numeric:tabular-nums; }
svg { display:block; max-width:100%; height:auto; } svg text { fill:var(--faint); font-size:11px; }
svg .axis { stroke:var(--line); } svg .value { fill:var(--ink); }
.chart path { fill:none; } .chart path:hover { stroke-width:4; opacity:1; }
.gallery { display:grid; grid-template-columns:repeat(auto-fill,minmax(240px,1fr)); gap:14px; }
figure { margin:0; border:1px solid var(--line); border-radius:10px; overflow:hidden; }
figure svg { width:100%; background:#0b0e14; max-height:320px; }
figcaption { padding:7px 10px; font-size:12.5px; color:var(--faint); overflow-wrap:anywhere; }
figcaption b { color:var(--ink); }
figure svg .box { filter:drop-shadow(0 0 1px #000); }
.box { fill:transparent; vector-effect:non-scaling-stroke; stroke-width:2.2; }
.side { display:flex; flex-wrap:wrap; gap:16px 32px; align-items:flex-start; }
.side > * { min-width:0; overflow:auto; } .side > :last-child { flex:1 1 300px; max-width:460px; }
.box:hover { fill:rgba(255,255,255,.18); stroke-width:3.5; }
.correct { stroke:#22c55e; } .false { stroke:#ef4444; } .found { stroke:#93c5fd; stroke-dasharray:2 3;
  stroke-width:1.2; } .missed { stroke:#fbbf24; stroke-dasharray:6 4; } .suggested { stroke:#c084fc; }
.key { display:flex; flex-wrap:wrap; gap:6px 18px; font-size:12.5px; color:var(--faint); margin:0 0 12px; }
.key svg { display:inline; vertical-align:middle; margin-right:6px; width:22px; height:10px; }
.good { color:var(--green); } .bad { color:var(--red); }
footer { color:var(--faint); font-size:12.5px; margin-top:22px; }
@media print { body { background:#fff; } section { break-inside:avoid; } .scroll { max-height:none; } }
"""

SCRIPT = """
document.querySelectorAll('table.sortable th').forEach(function (head) {
  head.addEventListener('click', function () {
    var body = head.closest('table').tBodies[0], column = head.cellIndex, down = head.dataset.down !== '1';
    head.dataset.down = down ? '1' : '';
    function key(row) { var c = row.cells[column]; return c.dataset.value || c.textContent; }
    Array.from(body.rows).sort(function (a, b) {
      var x = key(a), y = key(b), n = parseFloat(x) - parseFloat(y);
      var order = isNaN(n) ? (isNaN(parseFloat(x)) - isNaN(parseFloat(y)) || x.localeCompare(y)) : n;
      return down ? -order : order;
    }).forEach(function (row) { body.appendChild(row); });
  });
});
"""
