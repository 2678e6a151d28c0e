"""Style sheet of the report: light and dark, desktop and phone."""
# ruff: noqa: E501

from __future__ import annotations

from eval.bev import BACKGROUND, COLORS

__all__ = ["STYLE"]

STYLE = f"""
:root{{--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#5c6878;--line:#dfe4ea;--good:#12743b;--good-bg:#ddf3e4;
--bad:#b3261e;--bad-bg:#fbe1df;--skip:#6a5300;--skip-bg:#fdf0c4;--accent:#1463b8;
--s0:#3b7dd8;--s1:#8aa2bd;--s2:#2aa198;--s3:#b58900;--s4:#7b57b8;--s5:#c46a2b;--s6:#73808f}}
@media(prefers-color-scheme:dark){{:root{{--bg:#12171d;--card:#1a2129;--ink:#e5eaf0;--soft:#9aa7b5;--line:#2d3742;
--good:#7ee2a3;--good-bg:#173a26;--bad:#ff9a93;--bad-bg:#4a1d1b;--skip:#f2d36b;--skip-bg:#3f340f;--accent:#77b5ff}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
"DejaVu Sans",sans-serif;-webkit-text-size-adjust:100%}}
main{{max-width:1120px;margin:0 auto;padding:20px 16px 60px}}
h1{{font-size:26px;line-height:1.2;margin:8px 0 4px;overflow-wrap:anywhere}} h2{{font-size:19px;margin:0 0 10px}}
h3{{font-size:15px;margin:18px 0 8px;overflow-wrap:anywhere}} p{{margin:6px 0;overflow-wrap:anywhere}}
section{{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;margin-top:16px}}
.soft{{color:var(--soft)}} .small{{font-size:13px}} .num{{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}}
.verdict{{display:inline-block;border-radius:6px;padding:1px 9px;font-weight:650;font-size:13px;letter-spacing:.02em}}
.PASSED{{color:var(--good);background:var(--good-bg)}} .FAILED{{color:var(--bad);background:var(--bad-bg)}}
.SKIPPED{{color:var(--skip);background:var(--skip-bg)}}
.better{{color:var(--good);background:var(--good-bg)}} .worse{{color:var(--bad);background:var(--bad-bg)}}
.indistinguishable,.undefined{{color:var(--soft);background:var(--line)}} .bad{{color:var(--bad);font-weight:650}}
.callout{{border-left:4px solid var(--bad);background:var(--bad-bg);border-radius:0 8px 8px 0;padding:6px 14px;margin:10px 0}}
.callout code{{overflow-wrap:anywhere}} .nowrap{{white-space:nowrap}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:14px}}
.tile{{border:1px solid var(--line);border-radius:8px;padding:10px 12px;background:var(--card)}}
.tile b{{display:block;font-size:23px;line-height:1.2;font-variant-numeric:tabular-nums}}
.tile span{{color:var(--soft);font-size:13px}}
.scroll{{overflow-x:auto;margin:8px 0;-webkit-overflow-scrolling:touch}}
table{{border-collapse:collapse;width:100%;font-size:14px}}
th,td{{padding:6px 10px;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}}
th{{font-weight:600;color:var(--soft);font-size:13px;white-space:nowrap}} th.num{{text-align:right}}
tbody tr:last-child>*{{border-bottom:0}} .stack td.full:first-child{{white-space:nowrap}} tr.sum td{{font-weight:650;border-top:2px solid var(--line)}}
code{{font:12.5px/1.4 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere}}
td code{{white-space:nowrap}} td.sha{{min-width:300px}} td.sha code{{white-space:normal}} td.nowrap{{white-space:nowrap}}
.bar{{margin:10px 0}} .parts{{display:flex;height:22px;border-radius:4px;overflow:hidden}} .parts i{{height:100%}} ul{{margin:6px 0;padding-left:20px}} li{{overflow-wrap:anywhere}}
.views{{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:12px}}
figure{{margin:0;min-width:0}} figcaption{{font-size:13px;color:var(--soft);margin:4px 0 2px}}
.bev{{display:block;width:100%;background:{BACKGROUND};border-radius:8px}}
.bev polygon,.bev g>path{{fill:none;vector-effect:non-scaling-stroke}}
.bev polygon{{pointer-events:all}}
.gt-found>*{{stroke:{COLORS["found"]};stroke-width:2.2}} .gt-missed>*{{stroke:{COLORS["missed"]};stroke-width:2}}
.gt-missed polygon{{stroke-dasharray:4 3}} .det-ok>*{{stroke:{COLORS["correct"]};stroke-width:1.3}}
.det-bad>*{{stroke:{COLORS["false"]};stroke-width:1.6}}
.rings circle{{fill:none;stroke:#fff;stroke-opacity:.14;stroke-width:1;vector-effect:non-scaling-stroke}}
.rings text{{fill:#fff;fill-opacity:.5;font-size:2.2px}} .ego{{fill:#fff;fill-opacity:.85}}
.legend{{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;color:var(--soft)}}
.key{{display:inline-flex;align-items:center;gap:6px}} .key i{{width:14px;height:10px;border-radius:2px;display:inline-block}}
.key i.line{{height:0;border-top:3px solid;border-radius:0}} .key i.dash{{border-top-style:dashed}}
.charts{{display:grid;grid-template-columns:repeat(auto-fill,minmax(192px,1fr));gap:10px}}
.charts.two{{grid-template-columns:repeat(auto-fit,minmax(300px,1fr))}}
.chart{{display:block;width:100%;height:auto}} .grid{{stroke:var(--line);fill:none}}
.tick{{font-size:10.5px;fill:var(--soft)}} .head{{font-size:13px;font-weight:650;fill:var(--ink)}}
.label{{font-size:13px;fill:var(--ink)}}
.curve{{fill:none;stroke-width:1.8}} .other{{stroke-dasharray:2 4;stroke-width:3;stroke:var(--ink);opacity:.55}}
.t0{{stroke:#9cc3f0;color:#9cc3f0}} .t1{{stroke:#5c9be0;color:#5c9be0}} .t2{{stroke:#2468b8;color:#2468b8}}
.t3{{stroke:#7a4fb5;color:#7a4fb5}} .mark{{stroke:var(--bad);stroke-width:1.2;fill:none}}
{"".join(f".s{i}{{fill:var(--s{i});background:var(--s{i})}}" for i in range(7))}
.heat{{--a:calc(var(--v)*70%);background:color-mix(in srgb,var(--s2) var(--a),transparent)}}
.gain{{background:color-mix(in srgb,#2aa198 calc(var(--v)*65%),transparent)}} .loss{{background:color-mix(in srgb,#d9534f calc(var(--v)*65%),transparent)}}
.hbars{{font-size:13px;margin:8px 0}} .hbar{{display:grid;grid-template-columns:minmax(90px,34%) 1fr 84px;gap:10px;align-items:center;padding:1px 0}}
.hbar span{{overflow-wrap:anywhere;line-height:1.25}} .hbar div{{position:relative;height:13px;background:color-mix(in srgb,var(--line) 45%,transparent);border-radius:3px}}
.hbar i{{position:absolute;top:0;height:100%;border-radius:3px;min-width:1px}} .hbar b{{text-align:right;font-weight:500;font-variant-numeric:tabular-nums}}
figure.wide{{grid-column:1/-1}}
{"".join(f".l{i}{{stroke:var(--s{i});color:var(--s{i})}}" for i in range(7))} i.mark{{color:var(--bad)}}
details summary{{cursor:pointer;color:var(--accent);margin-top:8px;overflow-wrap:anywhere}}
@media(max-width:560px){{.charts{{grid-template-columns:1fr 1fr}} .charts.two{{grid-template-columns:1fr}} main{{padding:12px 8px 40px}} section{{padding:12px 12px;border-radius:8px}} h1{{font-size:22px}}
th,td{{padding:5px 7px}} table{{font-size:13px}} .hbar{{grid-template-columns:minmax(90px,42%) 1fr 66px}} .tiles{{grid-template-columns:1fr 1fr}} .tile b{{font-size:20px}}
.stack thead{{display:none}} .stack tr{{display:block;border-bottom:1px solid var(--line);padding:6px 0}}
.stack td{{display:inline-block;border:0;padding:2px 4px}} .stack td.nowrap{{white-space:normal}}
.stack td[data-name]::before{{content:attr(data-name) " ";color:var(--soft)}} .stack td.full:first-child{{white-space:normal}} .stack td:empty{{display:none}} .stack td.full{{display:block}} .stack td code{{white-space:normal}}}}
@media print{{section{{break-inside:avoid}} body{{background:#fff}}}}
"""
