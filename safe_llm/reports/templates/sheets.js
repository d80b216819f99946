// The tables of what is selected: the same as sheets.py makes of all. Text only ever enters as text.
const MOST_ROWS = 10;

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(name === "svg" || name === "rect" ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function usd(sums, bar) {
  return { text: spent(sums), exact: exact(sums.cost), bar };
}

function plain(text, bar) {
  return { text, bar };
}

function spendSheet(chosen) {
  const columns = seriesShown();
  const found = grouped(chosen.cells, (cell) => cell.when + "/" + column(cell.feature));
  const costs = (sums) => {
    const inside = columns.map((name) => sums(name));
    return [usd(inside.reduce(add, zero())), ...inside.map((part) => usd(part))];
  };
  const whens = [...new Set(chosen.cells.map((cell) => cell.when))].sort((a, b) => a - b);
  const at = (when, name) => found.get(when + "/" + name) || zero();
  return {
    rows: whens.map((when) => [plain(day(DATA.whens[when])), ...costs((name) => at(when, name))]),
    foot: costs((name) => whens.reduce((sum, when) => add(sum, at(when, name)), zero())),
  };
}

/** The features that have colours; -1 stands for all others. */
function seriesShown() {
  const names = [...Array(DATA.series).keys()];
  return DATA.names.feature.length > DATA.series ? [...names, -1] : names;
}

function column(feature) {
  return feature < DATA.series ? feature : -1;
}

function ranked(parts, whole) {
  const order = (a, b) =>
    a.sums.cost !== b.sums.cost ? (a.sums.cost < b.sums.cost ? 1 : -1) : b.sums.calls - a.sums.calls || (a.name < b.name ? -1 : 1);
  const named = parts.filter((part) => !part.others).sort(order);
  const most = named.length ? named[0].sums.cost : 0n;
  const figures = (sums, bar) => [
    usd(sums, bar),
    plain(percentage(sums.cost, whole.cost)),
    plain(number(sums.calls)),
    plain(number(sums.denied)),
    { text: compact(sums.input + sums.output), exact: sums.input + sums.output },
  ];
  const rows = named
    .slice(0, MOST_ROWS)
    .map((part) => [plain(part.name), ...figures(part.sums, most ? (Number(part.sums.cost) / Number(most)) * 100 : 0)]);
  const rest = [...named.slice(MOST_ROWS), ...parts.filter((part) => part.others)];
  if (rest.length) rows.push([plain(OTHERS), ...figures(total(rest), 0)]);
  return { rows, foot: figures(whole, 0) };
}

function rankingSheet(chosen, field) {
  const parts = [...grouped(chosen.cells, (cell) => cell[field])].map(([index, sums]) => {
    const [name, others] = DATA.names[field][index];
    return { name, others, sums };
  });
  return ranked(parts, total(chosen.cells));
}

function usersSheet(chosen) {
  const parts = [...grouped(chosen.rows, (row) => row.user)].map(([user, sums]) => ({ name: DATA.users[user], sums }));
  const whole = total(chosen.cells);
  const all = { ...zero(), ...whole, failed: 0, input: whole.input + whole.output, cached: 0, output: 0 };
  const known = total(parts);
  const rest = zero();
  for (const name in rest) rest[name] = all[name] - known[name];
  if (rest.calls) parts.push({ name: OTHERS, others: true, sums: rest });
  return ranked(parts, all);
}

function tokensSheet(chosen) {
  const row = (sums) => [sums.calls, sums.input - sums.cached, sums.cached, sums.output].map((n) => plain(number(n)));
  const found = [...grouped(chosen.cells, (cell) => cell.when)].sort(([a], [b]) => a - b);
  return {
    rows: found.map(([when, sums]) => [plain(day(DATA.whens[when])), ...row(sums)]),
    foot: row(total(chosen.cells)),
  };
}

function speedSheet(chosen, kind) {
  const row = (cells) => {
    const counts = histogram(cells, kind);
    return [50, 90, 99].map((percent) => plain(duration(percentile(counts, percent))));
  };
  const found = cellsByWhen(chosen.cells);
  return { rows: found.map(([when, cells]) => [plain(day(DATA.whens[when])), ...row(cells)]), foot: row(chosen.cells) };
}

function cellsByWhen(cells) {
  const found = new Map();
  for (const cell of cells) found.set(cell.when, [...(found.get(cell.when) || []), cell]);
  return [...found].sort(([a], [b]) => a - b);
}

/** Rules, most frequent first: index, name, and how often they denied and would have. */
function rules(denials) {
  const found = new Map();
  for (const { rule, real, count } of denials) {
    const [name, others] = DATA.rules[rule];
    if (!found.has(rule)) found.set(rule, { rule, name, others, denied: 0, would: 0 });
    found.get(rule)[real ? "denied" : "would"] += count;
  }
  const all = (part) => part.denied + part.would;
  return [...found.values()].sort((a, b) => all(b) - all(a) || (a.name < b.name ? -1 : 1));
}

function denialsSheet(chosen) {
  const found = rules(chosen.denials);
  const together = (parts) =>
    parts.reduce((sum, part) => ({ denied: sum.denied + part.denied, would: sum.would + part.would }), { denied: 0, would: 0 });
  const all = together(found);
  const whole = all.denied + all.would;
  const named = found.filter((part) => !part.others);
  const most = found.reduce((most, part) => Math.max(most, part.denied + part.would), 0);
  const row = ({ denied, would }, bar) => [plain(number(denied), bar), plain(percentage(denied + would, whole)), plain(number(would))];
  const rows = named.slice(0, MOST_ROWS).map((part) => [plain(part.name), ...row(part, ((part.denied + part.would) / most) * 100)]);
  const rest = [...named.slice(MOST_ROWS), ...found.filter((part) => part.others)];
  if (rest.length) rows.push([plain(OTHERS), ...row(together(rest), 0)]);
  return { rows, foot: row(all, 0) };
}

function fill(id, { rows, foot }) {
  const table = document.getElementById("table-" + id);
  const ranking = table.classList.contains("ranking");
  const cell = (value, bar) => {
    const made = element("td", {}, ...(value.exact === undefined ? [value.text] : [element("data", { value: value.exact }, value.text)]));
    if (bar) {
      const line = element("rect", { width: (value.bar || 0).toFixed(1), height: 1 });
      made.prepend(element("svg", { class: "bar", "aria-hidden": "true", viewBox: "0 0 100 1", preserveAspectRatio: "none" }, line));
    }
    return made;
  };
  table.tBodies[0].replaceChildren(
    ...rows.map(([name, ...values]) =>
      element("tr", {}, element("th", { scope: "row" }, element("bdi", {}, name.text)), ...values.map((value, n) => cell(value, ranking && n === 0)))
    )
  );
  table.tFoot.rows[0].replaceChildren(element("th", { scope: "row" }, "All"), ...foot.map((value) => cell(value, false)));
}

function fillTables(chosen) {
  fill("spend", spendSheet(chosen));
  fill("users", usersSheet(chosen));
  for (const field of FIELDS) fill(field + "s", rankingSheet(chosen, field));
  fill("tokens", tokensSheet(chosen));
  for (const kind of ["latency", "first_token"]) fill(kind, speedSheet(chosen, kind));
  fill("denials", denialsSheet(chosen));
}
