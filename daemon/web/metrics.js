// Prometheus' text format, and a ring of its samples: the server counts, the page remembers and takes differences.

// "name{label="value",...} 12.5" lines -> Map from name to [{labels, value}].
export function parse(text) {
  const families = new Map();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const brace = line.indexOf('{');
    const end = brace < 0 ? -1 : line.lastIndexOf('}');
    const name = brace < 0 ? line.slice(0, line.indexOf(' ')) : line.slice(0, brace);
    const labels = {};
    if (brace >= 0) {
      for (const [, label, value] of line.slice(brace + 1, end).matchAll(/([a-zA-Z_]\w*)="((?:\\.|[^"\\])*)"/g)) {
        labels[label] = value.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
      }
    }
    const word = line.slice(brace < 0 ? name.length : end + 1).trim().split(' ')[0];
    const value = word === '+Inf' ? Infinity : word === '-Inf' ? -Infinity : Number(word);
    if (!families.has(name)) families.set(name, []);
    families.get(name).push({ labels, value });
  }
  return families;
}

// Sum over the samples of a name that `keep` accepts.
export function sum(families, name, keep = () => true) {
  let total = 0;
  for (const sample of families.get(name) ?? []) {
    if (keep(sample.labels)) total += sample.value;
  }
  return total;
}

export function values(families, name, label) {
  return [...new Set((families.get(name) ?? []).map((sample) => sample.labels[label]))].filter((v) => v !== undefined);
}

// Cumulative counts of a histogram by upper bound, ascending.
function buckets(families, name, keep) {
  const byBound = new Map();
  for (const { labels, value } of families.get(`${name}_bucket`) ?? []) {
    if (!keep(labels)) continue;
    const bound = labels.le === '+Inf' ? Infinity : Number(labels.le);
    byBound.set(bound, (byBound.get(bound) ?? 0) + value);
  }
  return byBound;
}

// The quantile of what was observed between two states (`before` may be null: since the start), linear inside its bucket
// as Prometheus' histogram_quantile; null if nothing was.
export function quantile(q, before, after, name, keep = () => true) {
  const counts = buckets(after, name, keep);
  if (before) {
    for (const [bound, count] of buckets(before, name, keep)) counts.set(bound, (counts.get(bound) ?? 0) - count);
  }
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  const total = counts.get(Infinity) ?? 0;
  if (total <= 0) return null;
  const rank = q * total;
  let below = 0;
  let lower = 0;
  for (const bound of bounds) {
    const count = counts.get(bound);
    if (count >= rank && count > below) {
      return bound === Infinity ? lower : lower + (bound - lower) * ((rank - below) / (count - below));
    }
    below = count;
    lower = bound;
  }
  return lower;
}

// The last samples, oldest first. A counter that went down means a new process: what came before is dropped.
export class History {
  constructor(length) {
    this.length = length;
    this.samples = [];
  }

  add(time, families) {
    const started = sum(families, 'process_start_time_seconds');
    const last = this.latest;
    if (last && Math.abs(sum(last.families, 'process_start_time_seconds') - started) > 1) this.samples = [];
    this.samples.push({ time, families });
    if (this.samples.length > this.length) this.samples.shift();
  }

  get latest() {
    return this.samples.at(-1);
  }

  // [[time, value(families)]] of a gauge.
  gauge(value) {
    return this.samples.map(({ time, families }) => [time, value(families)]);
  }

  // [[time, value(before, after, seconds)]] of neighbouring samples; `span` of them at a time, for what is rare.
  between(value, span = 1) {
    return this.samples.slice(1).map((after, index) => {
      const before = this.samples[Math.max(0, index + 1 - span)];
      return [after.time, value(before.families, after.families, after.time - before.time)];
    });
  }
}
