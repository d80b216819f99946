// The charts of what is selected. Colours come from the style sheet, so that dark and light are decided there alone.
const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false };
const RULES_SHOWN = 5;
const WHO_SHOWN = 3;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

/** Plotly reads a small HTML in its texts; names must not be able to speak it. */
function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function layout(extra) {
  const { yaxis, ...rest } = extra;
  const axis = { fixedrange: true, gridcolor: colour("grid"), linecolor: colour("grid"), zeroline: false, automargin: true };
  return {
    height: 300,
    margin: { l: 8, r: 8, t: 16, b: 8 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("soft") },
    hovermode: "x unified",
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("text") }, namelength: 40 },
    dragmode: false,
    showlegend: false,
    bargap: 0.25,
    barmode: "stack",
    xaxis: { ...axis, type: "date", showgrid: false, showspikes: false, nticks: window.innerWidth < 600 ? 5 : 10, ...timeFormat() },
    yaxis: { ...axis, rangemode: "tozero", nticks: 5, ...yaxis },
    ...rest,
  };
}

function timeFormat() {
  const formats = { hour: ["%H:%M<br>%-d %b", "%-d %b %Y, %H:00"], day: ["%-d %b", "%a %-d %b %Y"], month: ["%b<br>%Y", "%B %Y"] };
  const [tickformat, hoverformat] = formats[DATA.unit];
  return { tickformat, hoverformat };
}

/** A time as Plotly reads it. */
function moment(when) {
  const text = DATA.whens[when];
  return text.length === 7 ? text + "-01" : text.length === 13 ? text + ":00" : text;
}

function bars(name, swatch, whens, values, hover) {
  return {
    type: "bar",
    name: escaped(name),
    x: whens.map(moment),
    y: values,
    marker: { color: swatch, line: { color: colour("card"), width: whens.length > 120 ? 0 : 1 } },
    customdata: hover,
    hovertemplate: "%{customdata}",
  };
}

function legend(id, entries) {
  const item = ([name, swatch, figure]) => {
    const mark = element("i", {});
    mark.style.backgroundColor = swatch;
    return element("li", {}, mark, element("bdi", {}, name), ...(figure ? [element("b", {}, figure)] : []));
  };
  document.getElementById("legend-" + id).replaceChildren(...entries.map(item));
}

function draw(id, traces, extra, words) {
  const place = document.getElementById("chart-" + id);
  place.setAttribute("aria-label", words);
  return Plotly.react(place, traces, layout(extra), CONFIG);
}

function swatch(number) {
  return colour(number < 0 ? "series-others" : "series-" + (number + 1));
}

function spendChart(chosen) {
  const found = grouped(chosen.cells, (cell) => cell.when + "/" + column(cell.feature));
  const whole = grouped(chosen.cells, (cell) => column(cell.feature));
  const columns = seriesShown().filter((name) => whole.has(name) && whole.get(name).cost > 0n);
  const name = (number) => (number < 0 ? OTHERS : DATA.names.feature[number][0]);
  const traces = columns.map((number) => {
    const costs = chosen.whens.map((when) => (found.get(when + "/" + number) || zero()).cost);
    return bars(name(number), swatch(number), chosen.whens, costs.map(dollars), costs.map(money));
  });
  const marks = eventMarks(chosen);
  legend("spend", [
    ...columns.map((number) => [name(number), swatch(number), money(whole.get(number).cost)]),
    ...(marks.length ? [["alert", colour("alert")]] : []),
  ]);
  const dearest = columns.length ? `, most of it by ${name(columns.reduce((a, b) => (whole.get(b).cost > whole.get(a).cost ? b : a)))}` : "";
  const words = `Spend over time, by feature: ${money(total(chosen.cells).cost)} in all${dearest}. The table below has the same figures.`;
  return draw("spend", [...traces, ...marks], { height: 340, yaxis: { tickprefix: "$", exponentformat: "none", separatethousands: true } }, words);
}

function dollars(cost) {
  return Number(cost) / 10 ** DATA.places;
}

/** A mark above each time in which there was an alert, other than that a limit was nearly used up. */
function eventMarks(chosen) {
  const length = DATA.whens.length ? DATA.whens[0].length : 0;
  const found = new Map();
  for (const [when, kind, count, who] of DATA.marks) {
    const at = DATA.whens.indexOf(when.replace(" ", "T").slice(0, length));
    if (!chosen.whens.includes(at)) continue;
    const kinds = found.get(at) || new Map();
    const before = kinds.get(kind) || { count: 0, who: [] };
    kinds.set(kind, { count: before.count + count, who: [...new Set([...before.who, ...who])] });
    found.set(at, kinds);
  }
  if (!found.size) return [];
  const heights = grouped(chosen.cells, (cell) => cell.when);
  const highest = Math.max(...[...heights.values()].map((sums) => dollars(sums.cost)), 0);
  const whens = [...found.keys()];
  const shown = (kinds) =>
    [...kinds].map(([kind, { count, who }]) => {
      const named = who.slice(0, WHO_SHOWN).map((name) => escaped(name.slice(0, 40))).join(", ");
      return `${escaped(kind)} (${number(count)}): ${named}${who.length > WHO_SHOWN ? ", …" : ""}`;
    }).join("<br>");
  return [
    {
      type: "scatter",
      mode: "markers",
      name: "alert",
      x: whens.map(moment),
      y: whens.map((when) => dollars((heights.get(when) || zero()).cost) + highest * 0.06),
      marker: { symbol: "triangle-down", size: 11, color: colour("alert") },
      customdata: whens.map((when) => shown(found.get(when))),
      hovertemplate: "%{customdata}",
    },
  ];
}

function tokensChart(chosen) {
  const found = grouped(chosen.cells, (cell) => cell.when);
  const kinds = [
    ["Input, not cached", "series-1", (sums) => sums.input - sums.cached],
    ["Input, cached", "series-3", (sums) => sums.cached],
    ["Output", "series-2", (sums) => sums.output],
  ];
  const whole = total(chosen.cells);
  const traces = kinds.map(([name, series, of]) => {
    const counts = chosen.whens.map((when) => of(found.get(when) || zero()));
    return bars(name, colour(series), chosen.whens, counts, counts.map(compact));
  });
  legend("tokens", kinds.map(([name, series, of]) => [name, colour(series), compact(of(whole))]));
  const words = `Tokens over time: ${compact(whole.input)} read and ${compact(whole.output)} written. The table below has the same figures.`;
  return draw("tokens", traces, { yaxis: { exponentformat: "B" } }, words);
}

function speedChart(chosen, kind, title) {
  const lines = [
    [99, "series-2", "dot"],
    [90, "series-4", "dash"],
    [50, "series-1", "solid"],
  ];
  const found = new Map(cellsByWhen(chosen.cells).map(([when, cells]) => [when, histogram(cells, kind)]));
  const whole = histogram(chosen.cells, kind);
  const traces = lines.map(([percent, series, dash]) => {
    const values = chosen.whens.map((when) => percentile(found.get(when) || [], percent));
    return {
      type: "scatter",
      mode: chosen.whens.length > 1 ? "lines" : "markers",
      name: percent === 50 ? "half" : percent + " %",
      x: chosen.whens.map(moment),
      y: values.map((value) => (value === null ? null : value / 1000)),
      line: { color: colour(series), width: 2.5, dash },
      marker: { size: 9, color: colour(series) },
      customdata: values.map(duration),
      hovertemplate: "%{customdata}",
    };
  });
  const named = lines.map(([percent, series]) => [percent === 50 ? "half in" : `${percent} % in`, colour(series), duration(percentile(whole, percent))]);
  legend(kind, named.reverse());
  const words = `${title}: half took at most ${duration(percentile(whole, 50))}, 99 % at most ${duration(percentile(whole, 99))}. The table below has the same figures.`;
  return draw(kind, traces, { height: 260, yaxis: { ticksuffix: " s" } }, words);
}

function denialsChart(chosen) {
  const ordered = rules(chosen.denials);
  const shown = ordered.filter((part) => !part.others).slice(0, RULES_SHOWN).map((part) => part.rule);
  const found = new Map();
  for (const { rule, place, count } of chosen.denials) {
    const key = CELLS[place].when + "/" + shown.indexOf(rule);
    found.set(key, (found.get(key) || 0) + count);
  }
  const columns = [...shown.keys(), ...(ordered.length > shown.length ? [-1] : [])];
  const name = (number) => (number < 0 ? OTHERS : DATA.rules[shown[number]][0]);
  const traces = columns.map((column) => {
    const counts = chosen.whens.map((when) => found.get(when + "/" + column) || 0);
    return bars(name(column), swatch(column), chosen.whens, counts, counts.map((count) => number(count)));
  });
  legend("denials", columns.map((number) => [name(number), swatch(number)]));
  const words = ordered.length ? `Denials over time, most often by ${ordered[0].name}. The table beside it has the figures by rule.` : "No call was denied.";
  return draw("denials", traces, { height: 260, yaxis: { exponentformat: "none", separatethousands: true } }, words);
}

function drawCharts(chosen) {
  return Promise.all([
    spendChart(chosen),
    tokensChart(chosen),
    speedChart(chosen, "latency", "Time to the end of the answer"),
    speedChart(chosen, "first_token", "Time to the first token"),
    denialsChart(chosen),
  ]);
}
