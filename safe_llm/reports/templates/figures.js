"use strict";
// The figures of what is selected. Money is BigInt, in units of 10 ** -DATA.places USD: sums are exact, as in the files.
const DATA = JSON.parse(document.getElementById("data").textContent);
const FIELDS = ["feature", "model", "plan"];
const GROWTH = 1.05; // as in sums.py
const OTHERS = "(others)";

const CELLS = DATA.cells.map((cell) => ({
  when: cell[0],
  feature: cell[1],
  model: cell[2],
  plan: cell[3],
  sums: {
    calls: cell[4],
    denied: cell[5],
    failed: cell[6],
    input: cell[7],
    cached: cell[8],
    output: cell[9],
    unpriced: cell[10],
    cost: BigInt(cell[11]),
  },
  latency: cell[12],
  first_token: cell[13],
}));
const ROWS = DATA.rows.map(([user, place, calls, denied, tokens, unpriced, cost]) => ({
  user,
  place,
  sums: { ...zero(), calls, denied, input: tokens, unpriced, cost: BigInt(cost) },
}));
const DENIALS = DATA.denials.map(([rule, real, place, count]) => ({ rule, real, place, count }));

function zero() {
  return { calls: 0, denied: 0, failed: 0, input: 0, cached: 0, output: 0, unpriced: 0, cost: 0n };
}

function add(into, sums) {
  for (const name in into) into[name] += sums[name];
  return into;
}

function total(parts) {
  return parts.reduce((whole, part) => add(whole, part.sums), zero());
}

/** Sums of things that have `sums`, by what `key` says of each. */
function grouped(things, key) {
  const found = new Map();
  for (const thing of things) {
    const name = key(thing);
    if (!found.has(name)) found.set(name, zero());
    add(found.get(name), thing.sums);
  }
  return found;
}

/** What the filters leave: cells, users' rows and denials, and the times that are shown. */
function select(filter) {
  const holds = (cell) =>
    cell.when >= filter.from &&
    cell.when <= filter.until &&
    FIELDS.every((field) => filter[field] === null || cell[field] === filter[field]);
  const chosen = CELLS.map(holds);
  return {
    cells: CELLS.filter((_, place) => chosen[place]),
    rows: ROWS.filter((row) => chosen[row.place]),
    denials: DENIALS.filter((denial) => chosen[denial.place]),
    whens: DATA.whens.slice(filter.from, filter.until + 1).map((_, number) => filter.from + number),
  };
}

/** Counts by bucket of the cells' times, from their lists of bucket and count by turns. */
function histogram(cells, kind) {
  const counts = new Map();
  for (const cell of cells) {
    for (let i = 0; i < cell[kind].length; i += 2) {
      counts.set(cell[kind][i], (counts.get(cell[kind][i]) || 0) + cell[kind][i + 1]);
    }
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** Milliseconds that so many percent took at the most; null of none. */
function percentile(counts, percent) {
  const whole = counts.reduce((sum, [, count]) => sum + count, 0);
  const rank = Math.max(1, Math.ceil((whole * percent) / 100));
  let below = 0;
  for (const [bucket, count] of counts) {
    below += count;
    if (below >= rank) return GROWTH ** (bucket + 0.5);
  }
  return null;
}

// How figures are written: as in words.py.

function rounded(value, places) {
  return (Math.floor(value * 10 ** places + 0.5) / 10 ** places).toFixed(places);
}

function number(count) {
  return count.toLocaleString("en-US");
}

function counted(calls) {
  return number(calls) + (calls === 1 ? " call" : " calls");
}

function exact(cost) {
  const digits = cost.toString().padStart(DATA.places + 1, "0");
  const point = digits.length - DATA.places;
  return (digits.slice(0, point) + "." + digits.slice(point)).replace(/\.?0*$/, "");
}

function money(cost) {
  const one = 10n ** BigInt(DATA.places);
  let places = 2;
  if (cost > 0n && cost < one) places = Math.max(2, DATA.places - cost.toString().length + 2);
  const scaled = cost * 10n ** BigInt(places);
  const cents = (scaled * 2n + one) / (one * 2n);
  const digits = cents.toString().padStart(places + 1, "0");
  return "$" + BigInt(digits.slice(0, -places)).toLocaleString("en-US") + "." + digits.slice(-places);
}

/** What calls cost; more than that where the price of some is not known. */
function spent(sums) {
  if (!sums.unpriced) return money(sums.cost);
  return sums.cost ? "≥ " + money(sums.cost) : "unknown";
}

function percentage(part, whole) {
  const share = Number(whole) ? (Number(part) / Number(whole)) * 100 : 0;
  if (share > 0 && share < 0.1) return "< 0.1 %";
  return rounded(share, (share > 0 && share < 9.95) || (share >= 99.5 && share < 100) ? 1 : 0) + " %";
}

function duration(milliseconds) {
  if (milliseconds === null) return "–";
  if (milliseconds < 1000) return rounded(milliseconds, 0) + " ms";
  return rounded(milliseconds / 1000, milliseconds < 9950 ? 1 : 0) + " s";
}

function compact(count) {
  for (const [size, unit] of [[1e12, " T"], [1e9, " B"], [1e6, " M"], [1e3, " K"]]) {
    if (count >= size * 0.9995) {
      const value = count / size;
      return rounded(value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0) + unit;
    }
  }
  return String(count);
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

function day(when) {
  const [year, month, rest] = when.slice(0, 10).split("-");
  const name = (rest ? Number(rest) + " " : "") + MONTHS[Number(month) - 1] + " " + year;
  return when.length > 10 ? name + ", " + when.slice(11, 13) + ":00" : name;
}
