// Memories: what each is worth, what it holds, how it is used; its switches, drift and diagnosis.
import * as api from './api.js';
import { askCorpus, confirm } from './dialogs.js';
import { createDocuments } from './documents.js';
import { announce, badge, el, facts, notice, onChange, swap, switchButton, table, tell } from './dom.js';
import { bytes, interval, number, plural, share, signed } from './format.js';
import { createSnapshots } from './snapshots.js';

const REFRESH_S = 10;

const SWITCHES = {
  disabled: {
    label: 'Switched off: requests run frozen',
    on: ['Switch this memory off?', 'Requests that name it run the model as it is, until it is switched on again.', 'Switch off'],
    off: ['Switch this memory on?', 'Requests are routed with it again.', 'Switch on'],
  },
  shadow: {
    label: 'Shadow: computed and counted, nothing is changed',
    on: ['Run this memory in the shadow?', 'What it would change is computed and counted; answers are those of the model as it is.', 'Start shadow mode'],
    off: ['End this memory\u2019s shadow mode?', 'It changes the routing again.', 'End shadow mode'],
  },
};

function verdictBadges({ verdict, stale }) {
  const word = verdict === 'absent' || !verdict ? 'not evaluated' : verdict;
  return el('span', { class: 'badges' }, badge(word, word === verdict ? verdict : ''), stale ? badge('stale', 'stale') : null);
}

function stateBadges(memory) {
  const badges = [memory.default ? badge('default') : null, memory.disabled ? badge('off', 'reject') : null,
    memory.shadow ? badge('shadow', 'inconclusive') : null].filter(Boolean);
  return badges.length ? el('span', { class: 'badges' }, badges) : el('span', { class: 'soft' }, 'in use');
}

function measured(value, ends) {
  return el('span', { class: 'measured' }, signed(value), ' ', el('span', { class: 'soft' }, interval(ends)));
}

const hasVerdict = (memory) => Boolean(memory.verdict.verdict) && memory.verdict.verdict !== 'absent';

function list(memories, chosen) {
  if (memories.length === 0) {
    return el('div', { class: 'empty' }, el('p', {}, 'This server has no memory that you may use.'),
      el('p', {}, 'Build one with ', el('code', {}, 'pointsman build'), ' and start the server with ', el('code', {}, '--memory ID=DIR'),
        ', or load one with ', el('code', {}, 'POST /v1/memories'), '.'));
  }
  return table('Gain: nats per token better than the frozen model on held-out text of the domain. Damage: nats worse on unrelated text. 95 % intervals.', [
    {
      title: 'Memory',
      cell: (m) => el('a', { href: `#memories/${api.segment(m.id)}`, id: `memory-link-${m.id}`, 'aria-current': m.id === chosen ? 'true' : null }, m.id),
    },
    { title: 'Verdict', cell: (m) => verdictBadges(m.verdict) },
    { title: 'Gain', number: true, cell: (m) => (hasVerdict(m) ? measured(m.verdict.gain, m.verdict.gain_ci95) : '\u2013') },
    { title: 'Damage', number: true, cell: (m) => (hasVerdict(m) ? measured(m.verdict.damage, m.verdict.damage_ci95) : '\u2013') },
    { title: 'Rows', number: true, cell: (m) => number(m.rows) },
    { title: 'Size', number: true, cell: (m) => bytes(m.derived_bytes + m.truth_bytes) },
    { title: 'Gate open', number: true, cell: (m) => (m.use.tokens > 0 ? share(m.use.open_share) : '\u2013') },
    { title: 'State', cell: stateBadges },
  ], memories);
}

function overview(memory) {
  const { verdict, use } = memory;
  return facts([
    ['Verdict', verdictBadges(verdict)],
    ['Gain', hasVerdict(memory) ? measured(verdict.gain, verdict.gain_ci95) : null],
    ['Damage', hasVerdict(memory) ? measured(verdict.damage, verdict.damage_ci95) : null],
    ['Tested on', hasVerdict(memory) ? plural(verdict.test_documents, 'document') : null],
    ['Kind', memory.kind + (memory.output_memory ? ', with an output memory' : '')],
    ['Generation', number(memory.generation)],
    ['Rows', number(memory.rows)],
    ['Reference', `${plural(memory.reference_documents, 'document')}, ${plural(memory.reference_tokens, 'token')}`],
    ['Size', `${bytes(memory.derived_bytes)} derived, ${bytes(memory.truth_bytes)} of truth`],
    ['Default strength', number(memory.strength, 2)],
    ['Use since it was loaded', `${plural(use.requests, 'request')}, ${plural(use.tokens, 'token')}`],
    ['Gate open', use.tokens > 0 ? `${share(use.open_share)} of tokens, mean gate ${number(use.gate_mean, 2)}, mean confidence ${number(use.confidence_mean, 2)}` : 'no token yet'],
  ]);
}

function drift(answer) {
  const line = (name, key) => ({ name, live: answer.live?.[key], expected: answer.calibration?.[key] });
  return [
    answer.alarm ? notice(answer.reason ?? 'What the memory meets is not what it was calibrated on.', 'warn')
      : answer.reason ? el('p', { class: 'soft' }, answer.reason) : el('p', {}, badge('no drift', 'adopt')),
    table(`Over the last ${plural(answer.window_tokens, 'token')} against the calibration.`, [
      { title: 'Measure', cell: (row) => row.name },
      { title: 'Live', number: true, cell: (row) => number(row.live, 3) },
      { title: 'Calibration', number: true, cell: (row) => number(row.expected, 3) },
    ], [line('Share of tokens with an open gate', 'open_share'), line('Mean gate', 'gate_mean'), line('Mean confidence', 'confidence_mean')], 'narrow'),
  ];
}

function diagnosis(answer) {
  const word = (value) => (typeof value === 'number' ? number(value, Number.isInteger(value) ? 0 : 3) : String(value ?? '\u2013'));
  return [
    answer.summary ? el('p', {}, answer.summary) : null,
    answer.findings?.length ? table('What was found, and what to do next.', [
      { title: 'Finding', cell: (row) => row.what.replaceAll('_', ' ') },
      { title: 'Value', number: true, cell: (row) => word(row.value) },
      { title: 'Expected', number: true, cell: (row) => word(row.expected) },
      { title: 'Next', cell: (row) => row.next ?? '\u2013' },
    ], answer.findings, 'words') : el('p', { class: 'empty' }, 'Nothing is out of the ordinary.'),
  ];
}

export function createMemories(root) {
  const box = el('div');
  const detail = el('div', { class: 'detail' });
  root.append(box, detail);
  let chosen = '';
  let parts = null;  // of the memory that is shown
  let timer = 0;

  const draw = onChange(([memories, id]) => swap(box, list(memories, id)));

  // A part of a memory's page that the server may not have: asked again with the memory, unless it is not there.
  function createPart(path, make) {
    const node = el('div');
    let there = true;
    const drawPart = onChange((answer) => swap(node, make(answer)));
    return {
      node,
      async update() {
        if (!there) return;
        try {
          drawPart(await api.get(path));
        } catch (error) {
          there = !error.unavailable;
          drawPart.forget();
          if (there) tell(node, error.message);
          else swap(node, el('p', { class: 'soft' }, 'Not available on this server.'));
        }
      },
    };
  }

  async function refresh() {
    clearTimeout(timer);
    let memories = null;
    try {
      memories = (await api.get('/v1/memories')).data;
      draw([memories, chosen]);
      const memory = memories.find((m) => m.id === chosen);
      if (memory && parts?.id === chosen) parts.update(memory);
      if (chosen && !memory) {
        parts = null;
        swap(detail, notice(`There is no memory '${chosen}' here that you may use.`));
      }
    } catch (error) {
      draw.forget();
      tell(box, error.message);
    }
    clearTimeout(timer);
    if (!root.hidden) timer = setTimeout(refresh, 1000 * REFRESH_S);
    return memories;
  }

  // The parts of one memory's page; made once, then updated, so that a search or an open text stays.
  function create(id) {
    const path = `/v1/memories/${api.segment(id)}`;
    const problem = el('div');
    const facts_ = el('div');
    const switches = el('div', { class: 'switches' });
    const driftPart = createPart(`${path}/drift`, drift);
    const diagnosisPart = createPart(`${path}/diagnosis`, diagnosis);

    async function act(doing, done) {
      try {
        const answer = await doing();
        announce(done);
        problem.replaceChildren();
        await refresh();
        return answer;
      } catch (error) {
        problem.replaceChildren(error.unavailable ? notice('Not available on this server.') : notice(error.message, 'bad'));
        return null;
      }
    }

    async function change(name, on) {
      const [title, text, action] = SWITCHES[name][on ? 'on' : 'off'];
      if (await confirm(title, text, action)) await act(() => api.patch(path, { [name]: on }), `${action}: done.`);
    }
    const buttons = Object.entries(SWITCHES).map(([name, words]) => [name, switchButton(words.label, false, (on) => change(name, on))]);
    switches.append(...buttons.map(([, button]) => button));

    const reload = el('button', {
      type: 'button', click: async () => {
        const answer = await act(() => api.post(`${path}/reload`), 'Reloaded.');
        if (answer) problem.replaceChildren(notice(`Generation ${answer.generation} is in use.`));
      },
    }, 'Reload from disk');
    const evaluate = el('button', {
      type: 'button', click: async () => {
        const corpus = await askCorpus(id);
        if (corpus && await act(() => api.post('/v1/evals', { memory: id, ...corpus }), 'The evaluation has started.')) location.hash = '#jobs';
      },
    }, 'Evaluate');

    const documents = createDocuments(id, path);
    const snapshots = createSnapshots(id, path, refresh);
    const title = `memory-title-${api.segment(id)}`;
    const drawFacts = onChange((memory) => swap(facts_, memory.warning ? notice(memory.warning, 'warn') : null, overview(memory)));
    const node = el('article', { 'aria-labelledby': title },
      el('div', { class: 'heading' }, el('h3', { id: title, tabindex: '-1' }, id), el('p', { class: 'actions' }, reload, evaluate)),
      problem, facts_, switches,
      el('div', { class: 'columns' },
        el('section', {}, el('h4', {}, 'Drift'), driftPart.node),
        el('section', {}, el('h4', {}, 'Diagnosis'), diagnosisPart.node)),
      documents.node, snapshots.node);
    return {
      id,
      node,
      update(memory) {
        drawFacts(memory);
        for (const [name, button] of buttons) button.setAttribute('aria-checked', String(memory[name]));
        driftPart.update();
        diagnosisPart.update();
        documents.update(memory.generation);
        snapshots.update(memory.generation);
      },
    };
  }

  return {
    async show(id) {
      const other = id !== chosen;
      chosen = id;
      if (other || !parts) {
        parts = null;
        detail.replaceChildren();
      }
      const memories = await refresh();
      const memory = memories?.find((m) => m.id === chosen);
      if (!memory || chosen !== id) return;
      if (parts?.id !== id) {
        parts = create(id);
        detail.replaceChildren(parts.node);
        parts.update(memory);
        if (document.activeElement?.id === `memory-link-${id}`) parts.node.querySelector('h3').focus();
      }
    },
    hide() {
      clearTimeout(timer);
    },
  };
}
