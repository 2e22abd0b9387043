// Playground: one prompt answered frozen and with a memory, side by side; each token of the latter says how sure the
// memory was, and who moved which experts.
import * as api from './api.js';
import { createExplanation, confidenceOf, moved } from './explanation.js';
import { announce, el, field, notice, swap, table, uniqueId } from './dom.js';
import { number, plural, rate, seconds, share } from './format.js';

const TINTS = 4;
const PROMPT_SHOWN = 240;  // characters of its end, in front of each answer

// 0: the gate was shut; 1..TINTS by confidence.
function tintOf(confidence) {
  return confidence > 0 ? Math.min(TINTS, 1 + Math.floor(confidence * TINTS)) : 0;
}

// Text whose line breaks can be seen.
function visible(text) {
  const lines = text.split('\n');
  return lines.flatMap((line, index) => (index === 0 ? [line] : [el('span', { class: 'break', 'aria-hidden': 'true' }, '\u21b5'), `\n${line}`]));
}

function createPane(title, select) {
  const id = uniqueId('pane');
  const heading = el('h3', { id }, title);
  const status = el('p', { class: 'soft status' }, '\u00a0');
  const problem = el('div');
  const prompt = el('span', { class: 'prompt' });
  const answer = el('span', {
    class: 'tokens', role: 'group', 'aria-label': select ? 'Tokens: arrow keys move, Enter explains one' : 'Answer',
  });
  const text = el('div', { class: 'passage' }, prompt, answer);
  let tokens = [];

  function focus(index) {
    const to = tokens[Math.max(0, Math.min(tokens.length - 1, index))];
    if (!to) return;
    for (const token of tokens) token.node.tabIndex = token === to ? 0 : -1;
    to.node.focus();
  }

  function keys(event, index) {
    const to = { ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (to !== undefined) focus(to);
    else if (event.key === 'Enter' || event.key === ' ') choose(index);
    else return;
    event.preventDefault();
  }

  function choose(index) {
    for (const token of tokens) token.node.setAttribute('aria-pressed', String(token === tokens[index]));
    for (const token of tokens) token.node.tabIndex = token === tokens[index] ? 0 : -1;
    select(tokens[index], index);
  }

  return {
    node: el('section', { class: 'pane', 'aria-labelledby': id }, heading, status, problem, text),
    get tokens() { return tokens; },
    get text() { return tokens.map((token) => token.text).join(''); },
    start(asked, name) {
      heading.textContent = name;
      status.textContent = 'waiting\u2026';
      problem.replaceChildren();
      prompt.replaceChildren(...visible(asked.length > PROMPT_SHOWN ? `\u2026${asked.slice(-PROMPT_SHOWN)}` : asked));
      answer.replaceChildren();
      tokens = [];
    },
    // `explain`: of the memory's side; `rest`: text that was held back, of no token of its own.
    add(piece, explain, rest) {
      const last = tokens.at(-1);
      if (rest && last) {
        last.text += piece;
        last.node.replaceChildren(...visible(last.text));
        return;
      }
      const index = tokens.length;
      const token = { text: piece, explain, confidence: explain ? confidenceOf(explain) : 0 };
      if (explain && select) {
        token.node = el('span', {
          role: 'button', class: `token t${tintOf(token.confidence)}`, tabindex: index === 0 ? 0 : -1, 'aria-pressed': 'false',
          'aria-label': `${JSON.stringify(piece)}, confidence ${number(token.confidence, 2)}`,
          click: () => choose(index), keydown: (event) => keys(event, index),
        }, piece === '' ? '\u25e6' : visible(piece));
      } else {
        token.node = el('span', {}, visible(piece));
      }
      tokens.push(token);
      answer.append(token.node);
    },
    say(words) { status.textContent = words; },
    fail(message) { problem.replaceChildren(notice(message, 'bad')); status.textContent = '\u00a0'; },
    // Marks the token that holds the character at `offset`.
    fork(offset) {
      let end = 0;
      for (const token of tokens) {
        end += token.text.length;
        if (end > offset) {
          token.node.classList.add('fork');
          return;
        }
      }
    },
  };
}

function commonLength(a, b) {
  let length = 0;
  while (length < Math.min(a.length, b.length) && a[length] === b[length]) length += 1;
  return length;
}

function tokenTable(tokens) {
  return table('Every token of the adapted answer.', [
    { title: 'Token', cell: (t) => el('code', {}, `${t.index + 1}: ${JSON.stringify(t.text)}`) },
    { title: 'Confidence', number: true, cell: (t) => number(t.confidence, 2) },
    { title: 'Context gate', number: true, cell: (t) => number(t.explain?.gate, 2) },
    { title: 'Layers with other experts', number: true, cell: (t) => `${(t.explain?.layers ?? []).filter(moved).length} of ${t.explain?.layers.length ?? 0}` },
    { title: 'Nearest document', cell: (t) => t.explain?.layers.flatMap((l) => l.neighbours).sort((a, b) => b.similarity - a.similarity)[0]?.document ?? '\u2013' },
  ], tokens.map((token, index) => ({ ...token, index })));
}

export function createPlayground(root) {
  const prompt = el('textarea', { rows: 4, required: true, spellcheck: 'false', placeholder: 'Text that the model goes on with' });
  const memory = el('select');
  const strength = el('input', { type: 'range', min: 0, max: 1, step: 0.05, value: 1 });
  const strengthShown = el('output', {}, '1.00');
  const most = el('input', { type: 'number', min: 1, max: 4096, value: 48, required: true });
  const temperature = el('input', { type: 'number', min: 0, max: 2, step: 0.1, value: 0, required: true });
  const seed = el('input', { type: 'number', min: 0, step: 1, value: 1, required: true });
  const run = el('button', { type: 'submit', class: 'primary' }, 'Answer both');
  const stop = el('button', { type: 'button', disabled: true, click: () => abort?.abort() }, 'Stop');
  const problem = el('div');
  const verdict = el('p', { class: 'comparison' });
  const explanation = createExplanation();
  const tableBox = el('details', { id: 'token-table', hidden: true }, el('summary', {}, 'The same as a table'));
  const frozen = createPane('Frozen', null);
  const adapted = createPane('Adapted', (token, index) => explanation.show(token, index));
  let abort = null;
  let told = false;  // which memory the server takes by default

  const strengthField = field('Strength', strength);
  strengthField.querySelector('label').append(' ', strengthShown);
  const form = el('form', {
    class: 'playground-form', submit: (event) => {
      event.preventDefault();
      answer();
    }, keydown: (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    },
  }, field('Prompt', prompt, 'Ctrl+Enter answers.'),
  el('div', { class: 'controls' }, field('Memory', memory), strengthField, field('Most tokens', most), field('Temperature', temperature), field('Seed', seed)),
  el('p', { class: 'actions' }, run, stop));
  strength.addEventListener('input', () => { strengthShown.textContent = number(Number(strength.value), 2); });

  const words = ['gate shut', 'up to 0.25', 'to 0.5', 'to 0.75', 'above'];
  const legend = el('p', { class: 'tints', hidden: true }, 'Confidence (gate \u00d7 mean g of the layers): ',
    words.map((word, level) => el('span', { class: `token t${level}` }, word)));

  root.append(problem, form, verdict, el('div', { class: 'panes', hidden: true }, frozen.node, adapted.node), legend, explanation.node, tableBox);
  const panes = root.querySelector('.panes');

  // One side. Returns what a line about it says.
  async function side(pane, body, signal) {
    const began = performance.now();
    let first = null;
    let finish = null;
    await api.stream('/v1/completions', { method: 'POST', body, signal }, (event) => {
      if (event.error) throw new api.ApiError(500, event.error.message, event.error.code);
      const choice = event.choices[0];
      if (!choice) return;
      finish = choice.finish_reason ?? finish;
      const explain = choice.explain?.[0];
      const rest = choice.explain === undefined;  // every token has a list of explanations, if an empty one
      if (choice.text === '' && rest) return;
      first ??= performance.now();
      pane.add(choice.text, explain, rest);
      pane.say(`${plural(pane.tokens.length, 'piece')}\u2026`);
    });
    const took = (performance.now() - began) / 1000;
    const decoding = first === null ? NaN : (performance.now() - first) / 1000;
    const speed = pane.tokens.length > 1 ? `, ${rate((pane.tokens.length - 1) / decoding)} per second` : '';
    return `${plural(pane.tokens.length, 'token')} in ${seconds(took)}${speed}${finish === 'length' ? '' : `, ended: ${finish}`}`;
  }

  function compare() {
    const [a, b] = [frozen.text, adapted.text];
    const open = adapted.tokens.filter((token) => token.explain?.gate > 0).length;
    const total = Math.max(1, adapted.tokens.length);
    const changed = adapted.tokens.filter((token) => token.explain?.layers.some(moved)).length;
    const mean = adapted.tokens.reduce((sum, token) => sum + token.confidence, 0) / total;
    const same = commonLength(a, b);
    if (a !== b) {
      frozen.fork(same);
      adapted.fork(same);
    }
    verdict.textContent = [
      a === b ? 'Both answers are the same.' : same === 0 ? 'The answers differ from their first character on.' : `The answers part after ${plural(same, 'character')}.`,
      `The gate was open at ${share(open / total)} of the tokens, mean confidence ${number(mean, 2)}; other experts at ${plural(changed, 'token')} of ${number(adapted.tokens.length)}.`,
    ].join(' ');
    announce(verdict.textContent);
  }

  async function answer() {
    abort?.abort();
    abort = new AbortController();
    const mine = abort;
    const chosen = memory.value;
    const body = {
      prompt: prompt.value, max_tokens: Number(most.value), temperature: Number(temperature.value), seed: Number(seed.value), stream: true, explain: true,
    };
    panes.hidden = false;
    legend.hidden = false;
    tableBox.hidden = true;
    stop.disabled = false;
    verdict.textContent = '';
    explanation.clear();
    announce('Answering.');
    const sides = [[frozen, 'Frozen', { ...body, memory: null }]];
    if (chosen) sides.push([adapted, `With ${chosen}`, { ...body, memory: chosen, strength: Number(strength.value) }]);
    else adapted.start('', 'Adapted');
    const ends = await Promise.all(sides.map(async ([pane, name, asked]) => {
      pane.start(prompt.value, name);
      try {
        pane.say(await side(pane, asked, mine.signal));
        return true;
      } catch (error) {
        if (mine !== abort) return false;
        if (error.name === 'AbortError') pane.say(`stopped after ${plural(pane.tokens.length, 'token')}`);
        else pane.fail(error.message);
        return false;
      }
    }));
    if (mine !== abort) return;
    stop.disabled = true;
    if (!chosen) adapted.say('No memory is loaded: there is nothing to compare with.');
    if (chosen && ends.every(Boolean)) compare();
    if (adapted.tokens.length) {
      tableBox.hidden = false;
      swap(tableBox, el('summary', {}, 'The same as a table'), tokenTable(adapted.tokens));
    }
  }

  async function refresh() {
    try {
      const { data } = await api.get('/v1/memories');
      const before = memory.value;
      memory.replaceChildren(...(data.length ? data.map((m) => el('option', { value: m.id }, m.id + (m.disabled ? ' (switched off)' : m.shadow ? ' (shadow)' : '')))
        : [el('option', { value: '' }, 'none loaded')]));
      const standard = data.find((m) => m.default)?.id ?? data[0]?.id ?? '';
      memory.value = told && data.some((m) => m.id === before) ? before : standard;
      told = true;
      problem.replaceChildren();
    } catch (error) {
      problem.replaceChildren(notice(error.message, 'bad'));
    }
  }

  return { show: refresh, hide() {} };
}
