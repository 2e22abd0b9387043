// Health: state, load and latency over time, the switches of the whole server, requests by route.
import * as api from './api.js';
import { lineChart } from './charts.js';
import { confirm } from './dialogs.js';
import { announce, el, facts, field, onChange, swap, switchButton, table, tell } from './dom.js';
import { bytes, number, rate, seconds, share } from './format.js';
import { quantile, sum, values } from './metrics.js';

const DURATION = 'pointsman_http_request_duration_seconds';
const NO_ROUTE = 'none';  // the label of what the HTTP layer refused
const REQUESTS = 'pointsman_http_requests_total';
const COMPLETIONS = ['/v1/completions', '/v1/chat/completions'];
const LATENCY_SPAN = 6;  // samples: quantiles of single seconds would jump

const SWITCHES = {
  disabled: {
    label: 'Kill switch: every request runs frozen',
    on: ['Switch all memories off?', 'Every request then runs the model as it is, without memories and sessions, until this is switched back.', 'Switch memories off'],
    off: ['Switch memories on again?', 'Requests are then routed with their memories again.', 'Switch memories on'],
  },
  shadow: {
    label: 'Shadow mode: memories are computed and counted, nothing is changed',
    on: ['Run every memory in the shadow?', 'What memories would change is computed and counted; answers are those of the model as it is.', 'Start shadow mode'],
    off: ['End shadow mode?', 'Memories change the routing again.', 'End shadow mode'],
  },
};

export function createHealth(root, history) {
  const problem = el('div');
  const refused = el('div');
  const tiles = el('div', { class: 'tiles-box' });
  const switches = el('div', { class: 'switches' });
  const routes = el('div');
  const range = el('select', {}, [[5, '5 minutes'], [15, '15 minutes'], [60, '1 hour']].map(([minutes, words]) =>
    el('option', { value: minutes, selected: minutes === 15 }, words)));
  const route = el('select', {}, el('option', { value: '' }, 'Completions'));
  const charts = {
    tokens: lineChart({ title: 'Tokens per second', series: ['generated', 'of prompts'], format: rate, least: 10 }),
    load: lineChart({ title: 'Requests in the engine', series: ['running', 'waiting'], format: (v) => number(v, Number.isInteger(v) ? 0 : 1), least: 4 }),
    latency: lineChart({ title: 'Request latency', series: ['p50', 'p99'], format: seconds, least: 0.01 }),
    hits: lineChart({ title: 'Memory hit rate', series: ['gate open', 'mean confidence'], format: share, most: 1 }),
  };
  root.append(problem, tiles,
    el('h3', {}, 'Switches of the whole server'), refused, switches,
    el('div', { class: 'heading' }, el('h3', {}, 'Over time'), el('div', { class: 'controls' }, field('Window', range), field('Latency of', route))),
    el('p', { class: 'soft' }, 'Since this page was opened: the server counts, the page takes a sample every 5 seconds.'),
    el('div', { class: 'plots' }, Object.values(charts).map((chart) => chart.node)),
    el('h3', {}, 'Requests by route'), routes);
  range.addEventListener('change', drawCharts);
  route.addEventListener('change', drawCharts);

  // Made once: the focus stays on the one that was used.
  const buttons = Object.entries(SWITCHES).map(([name, words]) => [name, switchButton(words.label, false, (on) => change(name, on))]);
  const drawSwitches = onChange((routing) => {
    for (const [name, button] of buttons) button.setAttribute('aria-checked', String(routing[name]));
    if (!buttons[0][1].isConnected) switches.replaceChildren(...buttons.map(([, button]) => button));
  });

  async function change(name, on) {
    const [title, text, action] = SWITCHES[name][on ? 'on' : 'off'];
    if (!(await confirm(title, text, action))) return;
    try {
      const routing = await api.patch('/v1/routing', { [name]: on });
      announce(`${action}: done.`);
      tell(refused, '');
      drawSwitches(routing);
    } catch (error) {
      tell(refused, error.message);
    }
  }

  async function askSwitches() {
    try {
      drawSwitches(await api.get('/v1/routing'));
    } catch (error) {
      drawSwitches.forget();
      tell(switches, error.unavailable ? 'Not available on this server.' : error.message, '');
    }
  }

  function wanted(labels) {
    return route.value === '' ? COMPLETIONS.includes(labels.route) : labels.route === route.value;
  }

  function drawCharts() {
    if (root.hidden || !history.latest) return;
    const now = history.latest.time;
    // No wider than what is known, so that the first minutes are not a speck at the right edge.
    const from = Math.max(now - 60 * Number(range.value), Math.min(history.samples[0].time, now - 60));
    const perSecond = (name) => history.between((before, after, time) => (sum(after, name) - sum(before, name)) / time);
    const latency = (q) => history.between((before, after) => quantile(q, before, after, DURATION, wanted), LATENCY_SPAN);
    const perToken = (name) => history.between((before, after) => {
      const tokens = sum(after, 'pointsman_memory_tokens_total') - sum(before, 'pointsman_memory_tokens_total');
      return tokens > 0 ? (sum(after, name) - sum(before, name)) / tokens : null;
    }, LATENCY_SPAN);
    charts.tokens.update([perSecond('pointsman_engine_generated_tokens_total'), perSecond('pointsman_engine_prompt_tokens_total')], from, now);
    charts.load.update([history.gauge((f) => sum(f, 'pointsman_engine_running')), history.gauge((f) => sum(f, 'pointsman_engine_waiting'))], from, now);
    charts.latency.update([latency(0.5), latency(0.99)], from, now);
    charts.hits.update([perToken('pointsman_memory_open_tokens_total'), perToken('pointsman_memory_confidence_total')], from, now);
  }

  function drawTiles(status) {
    const { time, families } = history.latest;
    const failed = sum(families, REQUESTS, (labels) => labels.status.startsWith('5'));
    const previous = history.samples.at(-2);
    const busy = previous ? (sum(families, 'pointsman_engine_busy_seconds_total') - sum(previous.families, 'pointsman_engine_busy_seconds_total')) /
      (time - previous.time) : NaN;
    const list = facts([
      ['State', status],
      ['Up for', seconds(time - sum(families, 'process_start_time_seconds'))],
      ['Running, waiting', `${number(sum(families, 'pointsman_engine_running'))}, ${number(sum(families, 'pointsman_engine_waiting'))}`],
      ['Engine busy', share(Math.min(1, busy))],
      ['Tokens generated', number(sum(families, 'pointsman_engine_generated_tokens_total'))],
      ['Requests answered', number(sum(families, REQUESTS))],
      ['Answered with 5xx', number(failed)],
      ['Resident memory', bytes(sum(families, 'process_resident_memory_bytes'))],
    ]);
    list.className = 'tiles';
    tiles.replaceChildren(list);
  }

  const offerRoutes = onChange((names) => {
    const chosen = route.value;
    route.replaceChildren(el('option', { value: '' }, 'Completions'),
      ...names.map((name) => el('option', { value: name, selected: name === chosen }, name)));
  });

  const drawRoutes = onChange((rows) => {
    if (rows.length === 0) {
      swap(routes, el('p', { class: 'empty' }, 'No request has been answered yet. Try one in the Playground.'));
      return;
    }
    swap(routes, table('Since the server\u2019s start. Latency is from a request\u2019s first byte to its answer\u2019s last.', [
      { title: 'Route', cell: (row) => (row.name === NO_ROUTE ? 'refused before a route was chosen' : el('code', {}, row.name)) },
      { title: 'Requests', number: true, cell: (row) => number(row.count) },
      { title: '4xx', number: true, cell: (row) => number(row.refused) },
      { title: '5xx', number: true, cell: (row) => number(row.failed) },
      { title: 'p50', number: true, cell: (row) => seconds(row.p50) },
      { title: 'p99', number: true, cell: (row) => seconds(row.p99) },
    ], rows));
  });

  function routeRows(families) {
    return values(families, REQUESTS, 'route').map((name) => {
      const own = (labels) => labels.route === name;
      return {
        name,
        count: sum(families, REQUESTS, own),
        refused: sum(families, REQUESTS, (labels) => own(labels) && labels.status.startsWith('4')),
        failed: sum(families, REQUESTS, (labels) => own(labels) && labels.status.startsWith('5')),
        p50: quantile(0.5, null, families, DURATION, own) ?? NaN,
        p99: quantile(0.99, null, families, DURATION, own) ?? NaN,
      };
    }).filter((row) => row.name.startsWith('/v1/') || row.name === NO_ROUTE).sort((a, b) => b.count - a.count);
  }

  return {
    show() {
      askSwitches();
      if (history.latest) this.refresh(document.getElementById('state').textContent);
    },
    refresh(status) {
      if (root.hidden) return;
      if (status === 'unreachable') {
        tell(problem, 'The server cannot be reached. This page asks again every 5 seconds.');
        return;
      }
      tell(problem, '');
      askSwitches();
      drawTiles(status);
      offerRoutes(values(history.latest.families, `${DURATION}_count`, 'route').filter((name) => name.startsWith('/')).sort());
      drawCharts();
      drawRoutes(routeRows(history.latest.families));
    },
    fail(error) {
      tell(problem, error.message);
    },
  };
}
