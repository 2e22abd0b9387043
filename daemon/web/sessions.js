// Sessions: what online rerouting learned for the holder of the key, and what it did to the loss.
import * as api from './api.js';
import { confirm } from './dialogs.js';
import { announce, badge, el, facts, onChange, swap, table, tell } from './dom.js';
import { dateTime, number, plural, signed } from './format.js';

const REFRESH_S = 5;

function loss(value) {
  return Number.isFinite(value) ? number(value, 4) : 'not measured';
}

function change(event) {
  const difference = event.loss_after - event.loss_before;
  if (event.loss_before === null || event.loss_after === null || !Number.isFinite(difference)) return '\u2013';
  return el('span', { class: difference < 0 ? 'better' : difference > 0 ? 'worse' : '' }, signed(difference));
}

function eventTable(session) {
  return table('Each time that the session learned. Losses are nats per token of the context, before and after.', [
    { title: 'Time', cell: (event) => dateTime(event.time) },
    { title: 'Tokens', number: true, cell: (event) => number(event.tokens) },
    { title: 'Loss before', number: true, cell: (event) => loss(event.loss_before) },
    { title: 'Loss after', number: true, cell: (event) => loss(event.loss_after) },
    { title: 'Change', number: true, cell: change },
    { title: 'Guard', cell: (event) => (event.kept ? badge('kept', 'adopt') : badge('undone', 'reject')) },
  ], session.events.slice().reverse());
}

export function createSessions(root) {
  const problem = el('div');
  const refused = el('div');
  const box = el('div');
  root.append(el('p', { class: 'soft' }, 'Of the key that this page uses: a session is its key\u2019s own.'), problem, refused, box);
  let timer = 0;

  async function drop(session) {
    if (!(await confirm('Delete this session?', `What ${session.id} learned is lost.`, 'Delete'))) return;
    try {
      await api.remove(`/v1/sessions/${api.segment(session.id)}`);
      announce('The session is deleted.');
      tell(refused, '');
      await refresh();
    } catch (error) {
      tell(refused, error.message);
    }
  }

  function card(session) {
    const id = `session-${session.id}`;
    const last = session.events.findLast((event) => event.kept && event.tokens > 0 && Number.isFinite(event.loss_before) && Number.isFinite(event.loss_after));
    return el('article', { class: 'card', 'aria-labelledby': id },
      el('div', { class: 'heading' }, el('h3', { id }, el('code', {}, session.id)),
        el('button', { type: 'button', id: `${id}-delete`, 'aria-label': `Delete ${session.id}`, click: () => drop(session) }, 'Delete')),
      facts([
        ['Memory', session.memory ?? 'none'],
        ['Loss', last ? el('span', {}, `${loss(last.loss_before)} \u2192 ${loss(last.loss_after)} `, change(last)) : 'not measured yet'],
        ['Learned from', plural(session.tokens, 'token')],
        ['Layers', session.layers.length ? session.layers.map((layer) => `${layer.layer}: ${number(layer.norm, 2)}`).join(', ') : 'none yet'],
        ['Created', dateTime(session.created)],
        ['Last used', dateTime(session.last_used)],
        ['Expires', dateTime(session.expires)],
      ]),
      session.events.length ? el('details', { id: `${id}-events` }, el('summary', {}, plural(session.events.length, 'event')), eventTable(session)) : null);
  }

  const draw = onChange((sessions) => {
    swap(box, sessions.length === 0
      ? el('div', { class: 'empty' }, el('p', {}, 'No session is alive.'),
        el('p', {}, 'Make one with ', el('code', {}, 'POST /v1/sessions'), ' and name it in completions as ', el('code', {}, 'session'),
          ' with ', el('code', {}, '"rewire": true'), ', or feed it with ', el('code', {}, 'POST /v1/sessions/{id}/context'), '.'))
      : sessions.map(card));
  });

  async function refresh() {
    clearTimeout(timer);
    try {
      const { data } = await api.get('/v1/sessions');
      draw(data.sort((a, b) => b.last_used - a.last_used));
      tell(problem, '');
    } catch (error) {
      tell(problem, error.message);
    }
    clearTimeout(timer);
    if (!root.hidden) timer = setTimeout(refresh, 1000 * REFRESH_S);
  }

  return { show: refresh, hide: () => clearTimeout(timer) };
}
