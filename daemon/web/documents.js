// A memory's documents: what it refers to, its nearest rows for a text, adding and deleting.
import * as api from './api.js';
import { confirm, show } from './dialogs.js';
import { announce, badge, el, field, notice, swap, table, uniqueId } from './dom.js';
import { dateTime, number, plural } from './format.js';

const PAGE = 50;

function similarity(value) {
  return el('span', { class: 'similarity' },
    el('meter', { min: 0, max: 1, value: Math.max(0, value), 'aria-hidden': 'true' }), number(value, 2));
}

// The places of a memory that are nearest, best first.
function neighbourTable(answer) {
  return [
    el('p', { class: 'soft' }, `Layer ${answer.layer}; confidence ${number(answer.confidence, 2)}, context gate ${number(answer.gate ?? NaN, 2)}.`),
    table('Nearest rows, best first; the bar in a text stands after the token that the row learned to predict.', [
      { title: 'Document', cell: (n) => (n.document === null ? 'not kept' : `${n.document}:${n.position}`) },
      { title: 'Similarity', number: true, cell: (n) => similarity(n.similarity) },
      { title: 'Text', wide: true, cell: (n) => (n.excerpt ? el('span', { class: 'excerpt' }, n.excerpt) : el('span', { class: 'soft' }, 'built without text')) },
    ], answer.neighbours),
  ];
}

export function createDocuments(id, path) {
  const problem = el('div');
  const box = el('div');
  const found = el('div');
  const more = el('button', { type: 'button', hidden: true, click: () => load(true) }, 'More documents');
  const tag = el('input', { type: 'search', autocomplete: 'off', change: () => load(false) });
  const query = el('input', { type: 'search', autocomplete: 'off', required: true });
  const search = el('form', { role: 'search', class: 'inline', submit: runSearch }, field('Find the rows nearest to a text', query),
    el('button', { type: 'submit' }, 'Search'));

  const name = el('input', { type: 'text', required: true, autocomplete: 'off' });
  const text = el('textarea', { rows: 5, required: true });
  const tags = el('input', { type: 'text', autocomplete: 'off' });
  const days = el('input', { type: 'number', min: 0.01, max: 36600, step: 'any' });
  const add = el('details', { id: uniqueId('add') }, el('summary', {}, 'Add a document'),
    el('form', { submit: runAdd }, field('Name', name), field('Text', text),
      field('Tags', tags, 'Separated by commas; may be left empty.'), field('Days until it is deleted', days, 'Empty: it stays.'), el('p', { class: 'actions' }, el('button', { type: 'submit', class: 'primary' }, 'Add'))));

  let documents = [];
  let generation = null;

  const fail = (error) => problem.replaceChildren(notice(error.unavailable ? 'Not available on this server.' : error.message, error.unavailable ? '' : 'bad'));

  async function runSearch(event) {
    event.preventDefault();
    swap(found, el('p', { class: 'soft' }, 'Searching\u2026'));
    try {
      const answer = await api.post(`${path}/search`, { text: query.value, k: 8 });
      announce(`${plural(answer.neighbours.length, 'row')} found.`);
      swap(found, answer.neighbours.length ? neighbourTable(answer) : el('p', { class: 'empty' }, 'No row is near this text.'));
    } catch (error) {
      swap(found, notice(error.unavailable ? 'Not available on this server.' : error.message, error.unavailable ? '' : 'bad'));
    }
  }

  async function runAdd(event) {
    event.preventDefault();
    try {
      await api.post(`${path}/documents`, {
        name: name.value,
        text: text.value,
        tags: tags.value.split(',').map((word) => word.trim()).filter(Boolean),
        ttl_s: Math.round(86400 * Number(days.value)),
      });
      announce(`${name.value} is being added.`);
      event.target.reset();
      location.hash = '#jobs';
    } catch (error) {
      fail(error);
    }
  }

  async function showText(document_) {
    try {
      const answer = await api.get(`${path}/documents/${api.segment(document_.id)}`);
      await show(document_.source, answer.text === null || answer.text === undefined
        ? el('p', { class: 'empty' }, 'This memory was built without text (--no-text).')
        : el('pre', { class: 'passage', tabindex: '0' }, answer.text));
    } catch (error) {
      fail(error);
    }
  }

  async function drop(document_) {
    const sure = await confirm('Delete this document?', `\u201c${document_.source}\u201d and its rows leave the memory with its next generation.`, 'Delete');
    if (!sure) return;
    try {
      const answer = await api.remove(`${path}/documents/${api.segment(document_.id)}`);
      announce(`Deleted; generation ${answer.generation} is in use.`);
      generation = answer.generation;
      await load(false);
    } catch (error) {
      fail(error);
    }
  }

  function draw() {
    if (documents.length === 0) {
      swap(box, el('p', { class: 'empty' }, tag.value ? 'No document has this tag.' : 'This memory lists no documents. Add one below, or build it again with its references.'));
      return;
    }
    swap(box, table(`${plural(documents.length, 'document')} shown.`, [
      { title: 'Document', cell: (d) => d.source },
      { title: 'Role', cell: (d) => el('span', { class: 'badges' }, badge(d.role), d.masked ? badge('deleted', 'reject') : null) },
      { title: 'Tokens', number: true, cell: (d) => (d.tokens > 0 ? number(d.tokens) : el('span', { class: 'soft' }, 'not kept')) },
      { title: 'Tags', cell: (d) => (d.tags?.length ? el('span', { class: 'badges' }, d.tags.map((word) => badge(word))) : '\u2013') },
      { title: 'Added', cell: (d) => dateTime(d.added) },
      ...(documents.some((d) => d.expires) ? [{ title: 'Expires', cell: (d) => dateTime(d.expires ?? NaN) }] : []),
      {
        title: 'Actions', cell: (d) => el('span', { class: 'row-actions' },
          el('button', { type: 'button', id: `text-${d.id}`, 'aria-label': `Text of ${d.source}`, click: () => showText(d) }, 'Text'),
          el('button', { type: 'button', id: `delete-${d.id}`, 'aria-label': `Delete ${d.source}`, click: () => drop(d) }, 'Delete')),
      },
    ], documents));
  }

  async function load(further) {
    const parameters = new URLSearchParams({ limit: PAGE });
    if (tag.value) parameters.set('tag', tag.value);
    if (further && documents.length) parameters.set('after', documents.at(-1).id);
    try {
      const answer = await api.get(`${path}/documents?${parameters}`);
      documents = further ? [...documents, ...answer.data] : answer.data;
      more.hidden = !answer.has_more;
      problem.replaceChildren();
      draw();
    } catch (error) {
      more.hidden = true;
      if (error.unavailable) swap(box, el('p', { class: 'soft' }, 'Not available on this server.'));
      else fail(error);
    }
  }

  const title = uniqueId('documents');
  return {
    node: el('section', { 'aria-labelledby': title },
      el('h4', { id: title }, 'Documents'), search, found, problem, el('div', { class: 'inline' }, field('Only with this tag', tag)), box, more, add),
    update(now) {
      if (now === generation) return;
      generation = now;
      load(false);
    },
  };
}
