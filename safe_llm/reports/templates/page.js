// What happens when somebody filters, or changes between dark and light.
const FORM = document.getElementById("filters");

function filterNow() {
  const read = (id) => document.getElementById("filter-" + id).value;
  const filter = { from: Number(read("from")), until: Number(read("until")) };
  for (const field of FIELDS) filter[field] = read(field) === "" ? null : Number(read(field));
  return filter;
}

function fillFigures(chosen) {
  const sums = total(chosen.cells);
  const median = (kind) => duration(percentile(histogram(chosen.cells, kind), 50));
  const tokens = sums.input + sums.output;
  const figures = {
    spend: [spent(sums), exact(sums.cost), sums.unpriced ? `and ${counted(sums.unpriced)} of unknown price` : `$${exact(sums.cost)}`],
    calls: [compact(sums.calls), sums.calls, number(sums.calls)],
    tokens: [compact(tokens), tokens, number(tokens)],
    denied: [percentage(sums.denied, sums.calls), sums.denied, counted(sums.denied)],
    failed: [percentage(sums.failed, sums.calls - sums.denied), sums.failed, counted(sums.failed)],
    speed: [median("latency"), "", `first token ${median("first_token")}`],
  };
  for (const [id, [text, value, rest]] of Object.entries(figures)) {
    document.getElementById(`figure-${id}-value`).replaceChildren(element("data", { value }, text));
    document.getElementById(`figure-${id}-rest`).textContent = rest;
  }
  return sums;
}

function show() {
  const filter = filterNow();
  const chosen = select(filter);
  const sums = fillFigures(chosen);
  const all = total(CELLS);
  const isFiltered = sums.calls !== all.calls || chosen.whens.length < DATA.whens.length;
  document.body.classList.toggle("filtered", isFiltered);
  document.getElementById("status").textContent = isFiltered
    ? `${number(sums.calls)} of ${number(all.calls)} calls are shown.`
    : `All ${number(all.calls)} calls are shown.`;
  fillTables(chosen);
  return drawCharts(chosen);
}

function start() {
  const redraw = () => drawCharts(select(filterNow()));
  FORM.addEventListener("change", (event) => {
    const [from, until] = ["from", "until"].map((id) => document.getElementById("filter-" + id));
    // A period that ends before it begins becomes the one time that was just chosen.
    if (Number(from.value) > Number(until.value)) (event.target === from ? until : from).value = event.target.value;
    show();
  });
  FORM.addEventListener("reset", () => setTimeout(show));
  FORM.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("appearance").addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  // Browsers keep what was chosen when a page is loaded again; the tables then have to follow.
  show().then(() => document.documentElement.setAttribute("data-drawn", "true"));
}

if (FORM) start();
