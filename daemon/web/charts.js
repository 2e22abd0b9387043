// Line charts over time, drawn as SVG. A line is told from another by its dashes too, never by its color alone.
import { el, svg, uniqueId } from './dom.js';

const HEIGHT = 132;
const MARGIN = { left: 48, right: 8, top: 8, bottom: 20 };

// The next of 1, 2, 5, 10, ... above `value`.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5, 10]) {
    if (value <= step * power * 1.0001) return step * power;
  }
  return 10 * power;
}

// lineChart({title, series: ['p50', 'p99'], format, most, least}) -> {node, update(lines, from, to)}; `most` is a fixed top, `least` the
// smallest one. A line is [[time, value or null], ...], in the order of `series`.
export function lineChart({ title, series, format, most, least }) {
  const id = uniqueId('chart');
  const readings = series.map(() => el('span', { class: 'reading' }));
  const when = el('span', { class: 'soft when' });
  const description = svg('desc', { id: `${id}-desc` });
  const plot = svg('g');
  const cursor = svg('line', { class: 'cursor', visibility: 'hidden' });
  const picture = svg('svg', { height: HEIGHT, role: 'img', 'aria-labelledby': `${id}-title ${id}-desc` }, description, plot, cursor);
  const legend = series.map((name, index) => el('span', { class: `key s${index}` },
    svg('svg', { width: 20, height: 8, 'aria-hidden': 'true' }, svg('line', { x1: 0, y1: 4, x2: 20, y2: 4, class: `line s${index}` })),
    ` ${name} `, readings[index]));
  const node = el('figure', { class: 'chart' },
    el('figcaption', {}, el('strong', { id: `${id}-title` }, title), when, el('span', { class: 'legend' }, legend)), picture);

  let lines = [];
  let from = 0;
  let to = 1;
  let top = 1;
  const width = () => Math.max(160, node.clientWidth);
  const x = (time) => MARGIN.left + (width() - MARGIN.left - MARGIN.right) * ((time - from) / (to - from));
  const y = (value) => HEIGHT - MARGIN.bottom - (HEIGHT - MARGIN.top - MARGIN.bottom) * Math.min(1, value / top);
  const shown = (line) => line.filter(([time]) => time >= from - 1);
  const known = (line) => shown(line).filter(([, value]) => Number.isFinite(value));

  function path(line) {
    let commands = '';
    let pen = 'M';
    for (const [time, value] of shown(line)) {
      if (!Number.isFinite(value)) {
        pen = 'M';
        continue;
      }
      commands += `${pen}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = 'L';
    }
    return commands;
  }

  // A point with a gap on both sides would be a line of no length: it gets a dot.
  function lonely(line) {
    const points = shown(line);
    return points.filter(([, value], i) => Number.isFinite(value) && !Number.isFinite(points[i - 1]?.[1]) && !Number.isFinite(points[i + 1]?.[1]));
  }

  function draw() {
    picture.setAttribute('width', width());
    picture.setAttribute('viewBox', `0 0 ${width()} ${HEIGHT}`);
    const peak = Math.max(0, ...lines.flatMap((line) => known(line).map(([, value]) => value)));
    top = most ?? Math.max(least ?? 0, peak > 0 ? roundUp(peak) : 1);
    const marks = [0, top / 2, top].map((value) => [
      svg('line', { class: 'grid', x1: MARGIN.left, x2: width() - MARGIN.right, y1: y(value), y2: y(value) }),
      svg('text', { class: 'tick', x: MARGIN.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, format(value)),
    ]);
    const span = to - from;
    const ago = span < 100 ? `${Math.round(span)} s ago` : `${Math.round(span / 60)} min ago`;
    const ends = [
      svg('text', { class: 'tick', x: MARGIN.left, y: HEIGHT - 4 }, ago),
      svg('text', { class: 'tick', x: width() - MARGIN.right, y: HEIGHT - 4, 'text-anchor': 'end' }, 'now'),
    ];
    const drawn = lines.map((line, index) => [
      svg('path', { class: `line s${index}`, d: path(line) }),
      lonely(line).map(([time, value]) => svg('circle', { class: `dot s${index}`, cx: x(time), cy: y(value), r: 2 })),
    ]);
    plot.replaceChildren(...[marks, ends, drawn].flat(Infinity));
    read(null);
    description.textContent = lines.map((line, index) => {
      const all = known(line).map(([, value]) => value);
      return all.length === 0 ? `${series[index]}: no values yet.`
        : `${series[index]}: now ${format(all.at(-1))}, least ${format(Math.min(...all))}, most ${format(Math.max(...all))}.`;
    }).join(' ');
  }

  // The values at `time`, or the newest.
  function read(time) {
    lines.forEach((line, index) => {
      const points = time === null ? shown(line).slice(-1) : shown(line);
      const nearest = points.reduce((best, point) => (!best || Math.abs(point[0] - time) < Math.abs(best[0] - time) ? point : best), null);
      readings[index].textContent = nearest && Number.isFinite(nearest[1]) ? format(nearest[1]) : '\u2013';
    });
    when.textContent = time === null ? '' : ` ${Math.round(to - time)} s ago`;
    cursor.setAttribute('visibility', time === null ? 'hidden' : 'visible');
  }

  picture.addEventListener('pointermove', (event) => {
    const left = event.clientX - picture.getBoundingClientRect().left;
    const at = Math.min(width() - MARGIN.right, Math.max(MARGIN.left, left));
    for (const [name, value] of [['x1', at], ['x2', at], ['y1', MARGIN.top], ['y2', HEIGHT - MARGIN.bottom]]) cursor.setAttribute(name, value);
    read(from + (to - from) * ((at - MARGIN.left) / (width() - MARGIN.left - MARGIN.right)));
  });
  picture.addEventListener('pointerleave', () => read(null));
  new ResizeObserver(() => { if (node.clientWidth > 0) draw(); }).observe(node);

  return {
    node,
    update(newLines, newFrom, newTo) {
      [lines, from, to] = [newLines, newFrom, newTo];
      if (node.clientWidth > 0) draw();
    },
  };
}
