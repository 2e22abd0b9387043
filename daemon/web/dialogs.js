// Questions: what the browser's own <dialog> gives for free is focus, Escape and a page that is inert behind it.
import { el, field, uniqueId } from './dom.js';

function open(title, content, buttons, className = '') {
  const id = uniqueId('dialog');
  const dialog = el('dialog', { 'aria-labelledby': id, class: className },
    el('form', { method: 'dialog' }, el('h2', { id }, title), content, el('p', { class: 'actions' }, buttons)));
  document.body.append(dialog);
  const before = document.activeElement;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(dialog.returnValue);
    });
  });
}

// Whether the reader says yes. `action` names what happens: "Switch off", never "OK".
export async function confirm(title, text, action) {
  const answer = await open(title, el('p', {}, text), [
    el('button', { value: 'no', autofocus: true }, 'Cancel'),
    el('button', { value: 'yes', class: 'primary' }, action),
  ]);
  return answer === 'yes';
}

// A key, or '' to forget the one that is kept, or null for no change.
export async function askKey(message, kept) {
  const input = el('input', {
    type: 'password', id: 'api-key', autocomplete: 'off', spellcheck: 'false', autocapitalize: 'off', autofocus: true,
  });
  const content = [
    message ? el('p', { class: 'notice' }, message) : null,
    el('div', { class: 'field' }, el('label', { for: 'api-key' }, 'API key'), input),
    el('p', { class: 'hint' }, 'Kept in this tab until it is closed, and sent to this server only.'),
  ];
  // The first button is what Enter presses.
  const answer = await open('API key', content, [
    el('button', { value: 'use', class: 'primary' }, 'Use this key'),
    kept ? el('button', { value: 'forget' }, 'Forget the key') : null,
    el('button', { value: 'no', formnovalidate: true }, 'Cancel'),
  ]);
  if (answer === 'forget') return '';
  return answer === 'use' && input.value.trim() !== '' ? input.value.trim() : null;
}

// Paths, or groups of them where every line is NAME=PATH.
function corpusOf(lines) {
  if (lines.length === 0) return {};
  const named = lines.map((line) => line.match(/^([^=]+)=(.+)$/));
  if (named.some((match) => match === null)) return { paths: lines };
  const groups = new Map();
  for (const [, name, path] of named) groups.set(name, [...(groups.get(name) ?? []), path]);
  return { groups: Array.from(groups, ([name, paths]) => ({ name, paths })) };
}

// What a memory is scored on, as fields of an evaluation; null for no evaluation.
export async function askCorpus(memory) {
  const paths = el('textarea', { rows: 2, autofocus: true, spellcheck: 'false' });
  const text = el('textarea', { rows: 6 });
  const content = [
    field('What it was built from', paths, 'Paths below the server\u2019s --corpus-root, one a line: the test documents that its build set aside are scored. Of a memory of several domains NAME=PATH, as it was built.'),
    field('Or a text to score it on', text, 'Text that the memory has not seen.'),
  ];
  const answer = await open(`Evaluate ${memory}`, content, [
    el('button', { value: 'yes', class: 'primary' }, 'Evaluate'),
    el('button', { value: 'no', formnovalidate: true }, 'Cancel'),
  ], 'wide');
  if (answer !== 'yes') return null;
  const lines = paths.value.split('\n').map((line) => line.trim()).filter(Boolean);
  return { ...corpusOf(lines), ...(text.value ? { test_corpus: [{ name: 'pasted text', text: text.value }] } : {}) };
}

export function show(title, content) {
  return open(title, content, [el('button', { value: 'no', autofocus: true }, 'Close')], 'wide');
}
