// Elements from data. Text goes in as text nodes only: names of documents and generated text are whatever somebody wrote.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === 'function') node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// el('button', {type: 'button', click: handler}, 'Delete'): a function is a listener, anything else an attribute.
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

let lastId = 0;
export function uniqueId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

// Replaces what `container` holds and keeps the focus on the element of the same id, and disclosures open.
export function swap(container, ...children) {
  const focused = container.contains(document.activeElement) ? document.activeElement.id : '';
  const open = [...container.querySelectorAll('details[open][id]')].map((details) => details.id);
  container.replaceChildren(...children.flat(Infinity).filter(Boolean));
  for (const id of open) {
    const details = document.getElementById(id);
    if (details) details.open = true;
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

// Calls `draw` only when what it would show has changed, so that nothing moves under a reader's finger.
export function onChange(draw) {
  let before;
  const drawn = (data) => {
    const now = JSON.stringify(data);
    if (now === before) return;
    before = now;
    draw(data);
  };
  // Something else has been put in its place: the next call draws.
  drawn.forget = () => { before = undefined; };
  return drawn;
}

// A table that becomes a list of cards on a phone (style.css). The roles keep it a table for screen readers there.
// columns: [{title, cell: (row) => text or node, number: bool, wide: bool}]; the first column names the row, a wide one has
// its own lines on a card. `kind`: 'narrow' for a table that fits a phone as it is.
export function table(caption, columns, rows, kind = '') {
  const head = columns.map((column) =>
    el('th', { scope: 'col', role: 'columnheader', class: column.number ? 'number' : null }, column.title));
  const body = rows.map((row) => el('tr', { role: 'row' }, columns.map((column, index) => {
    const properties = { 'data-label': column.title, class: column.number ? 'number' : column.wide ? 'wide' : null };
    return index === 0
      ? el('th', { ...properties, scope: 'row', role: 'rowheader' }, column.cell(row))
      : el('td', { ...properties, role: 'cell' }, column.cell(row));
  })));
  return el('table', { role: 'table', class: kind },
    el('caption', {}, caption),
    el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' }, head)),
    el('tbody', { role: 'rowgroup' }, body));
}

// Pairs of a name and a value.
export function facts(pairs) {
  return el('dl', { class: 'facts' }, pairs.filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

export function badge(word, kind = '') {
  return el('span', { class: `badge ${kind}` }, word);
}

export function notice(text, kind = '') {
  return el('p', { class: `notice ${kind}`, role: kind === 'bad' ? 'alert' : null }, text);
}

// What is wrong, or '' for nothing. Said again only when it changes: a notice is read aloud.
export function tell(container, text, kind = 'bad') {
  if (container.textContent === text) return;
  container.replaceChildren(...(text ? [notice(text, kind)] : []));
}

// Says it to screen readers without moving anything.
export function announce(text) {
  document.getElementById('announcements').textContent = text;
}

// A label above its control.
export function field(label, control, hint) {
  control.id ||= uniqueId('field');
  const hintId = hint ? `${control.id}-hint` : null;
  if (hintId) control.setAttribute('aria-describedby', hintId);
  return el('div', { class: 'field' }, el('label', { for: control.id }, label), control,
    hint ? el('p', { class: 'hint', id: hintId }, hint) : null);
}

// A switch. `change(on)` returns a promise and sets aria-checked once it is so.
export function switchButton(label, on, change) {
  const button = el('button', {
    type: 'button', role: 'switch', class: 'switch', id: uniqueId('switch'), 'aria-checked': String(on),
    click: async () => {
      if (button.getAttribute('aria-busy') === 'true') return;  // not disabled: that would lose the focus
      button.setAttribute('aria-busy', 'true');
      try {
        await change(button.getAttribute('aria-checked') !== 'true');
      } finally {
        button.removeAttribute('aria-busy');
      }
    },
  }, el('span', { class: 'knob', 'aria-hidden': 'true' }), el('span', {}, label));
  return button;
}
