// One token's explanation: by layer, the experts before and after, and the remembered places that moved them.
import { announce, badge, el, swap, table } from './dom.js';
import { number, plural } from './format.js';

const NEIGHBOURS = 4;  // shown at once

// The context gate times the mean of the layers' confidences: how far the memory was let in.
export function confidenceOf(explain) {
  if (explain.layers.length === 0) return 0;
  return explain.gate * explain.layers.reduce((sum, layer) => sum + layer.g, 0) / explain.layers.length;
}

// Whether the memory chose other experts here, whatever their order.
export function moved(layer) {
  return layer.experts_after.some((expert) => !layer.experts_before.includes(expert));
}

function experts({ experts_before: before, experts_after: after }) {
  const side = (own, other, changed) => own.map((expert) => (other.includes(expert)
    ? el('span', { class: 'expert' }, expert) : el(changed, { class: 'expert' }, expert)));
  return el('span', { class: 'experts' }, side(before, after, 'del'), el('span', { class: 'arrow' }, ' \u2192 '), side(after, before, 'ins'));
}

function neighbourRows(layer) {
  if (layer.neighbours.length === 0) return el('p', { class: 'soft' }, 'The context gate was shut here: the memory was not asked.');
  const columns = [
    { title: 'Document', cell: (n) => `${n.document}:${n.position}` },
    { title: 'Similarity', number: true, cell: (n) => number(n.similarity, 3) },
    { title: 'Text around it', wide: true, cell: (n) => (n.excerpt ? el('code', { class: 'excerpt' }, n.excerpt) : el('span', { class: 'soft' }, 'kept without text')) },
  ];
  const rest = layer.neighbours.slice(NEIGHBOURS);
  return [
    table('Neighbours, nearest first; the bar in a text stands after the token that the row learned to predict.', columns, layer.neighbours.slice(0, NEIGHBOURS)),
    rest.length ? el('details', {}, el('summary', {}, `${rest.length} more`), table('Further neighbours', columns, rest)) : null,
  ];
}

export function createExplanation() {
  const title = el('h3', { id: 'explanation-title', tabindex: '-1' });
  const body = el('div');
  const hint = el('p', { class: 'empty' }, 'Choose a token of the adapted answer to see which experts changed and the text of its neighbours.');
  const panel = el('div', { hidden: true }, title, body);
  const node = el('section', { class: 'explanation', 'aria-labelledby': 'explanation-title', hidden: true }, hint, panel);
  return {
    node,
    clear() {
      node.hidden = false;
      hint.hidden = false;
      panel.hidden = true;
      node.removeAttribute('aria-labelledby');
      node.setAttribute('aria-label', 'Explanation of a token');
    },
    show(token, index) {
      const { layers, gate } = token.explain;
      const changed = layers.filter(moved);
      title.textContent = `Token ${index + 1}: ${JSON.stringify(token.text)}`;
      const first = changed[0] ?? layers[0];
      swap(body,
        el('p', {}, `Context gate ${number(gate, 2)}, confidence ${number(token.confidence, 2)}; other experts in ${changed.length} of ${plural(layers.length, 'layer')}.`),
        layers.map((layer) => el('details', { class: 'layer', open: layer === first },
          el('summary', {}, el('span', { class: 'layer-name' }, `Layer ${layer.layer}`), el('span', { class: 'soft' }, `g ${number(layer.g, 2)}`), experts(layer),
            moved(layer) ? badge('changed', 'accent') : el('span', { class: 'soft' }, 'same experts')),
          neighbourRows(layer))));
      hint.hidden = true;
      panel.hidden = false;
      node.setAttribute('aria-labelledby', 'explanation-title');
      node.removeAttribute('aria-label');
      announce(`${title.textContent}: other experts in ${changed.length} of ${plural(layers.length, 'layer')}, explained below.`);
      title.scrollIntoView({ block: 'nearest' });
    },
  };
}
