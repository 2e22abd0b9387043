// A memory's snapshots: copies to go back to.
import * as api from './api.js';
import { confirm } from './dialogs.js';
import { announce, el, field, notice, swap, table, uniqueId } from './dom.js';
import { bytes, dateTime, number } from './format.js';

export function createSnapshots(id, path, changed) {
  const problem = el('div');
  const box = el('div');
  const name = el('input', { type: 'text', autocomplete: 'off', pattern: '[a-z0-9][a-z0-9._\\-]*', title: 'lower-case letters, digits, dots, dashes' });
  let generation = null;

  async function act(doing, done) {
    try {
      await doing();
      announce(done);
      problem.replaceChildren();
      await load();
    } catch (error) {
      problem.replaceChildren(notice(error.unavailable ? 'Not available on this server.' : error.message, error.unavailable ? '' : 'bad'));
    }
  }

  function take(event) {
    event.preventDefault();
    act(() => api.post(`${path}/snapshots`, name.value ? { name: name.value } : {}), 'The snapshot is taken.');
  }

  const own = (snapshot) => `${path}/snapshots/${api.segment(snapshot.name)}`;

  async function restore(snapshot) {
    if (!(await confirm('Restore this snapshot?', `\u201c${id}\u201d goes back to generation ${snapshot.generation} of \u201c${snapshot.name}\u201d.`, 'Restore'))) return;
    await act(async () => {
      await api.post(`${own(snapshot)}/restore`, {});
      await changed();
    }, 'Restored.');
  }

  async function drop(snapshot) {
    if (!(await confirm('Delete this snapshot?', `\u201c${snapshot.name}\u201d cannot be restored after that.`, 'Delete'))) return;
    await act(() => api.remove(own(snapshot)), 'Deleted.');
  }

  async function rollBack() {
    if (!(await confirm('Roll back?', `\u201c${id}\u201d goes back to the generation before this one.`, 'Roll back'))) return;
    await act(async () => {
      await api.post(`${path}/rollback`, {});
      await changed();
    }, 'Rolled back.');
  }

  async function load() {
    try {
      const { data } = await api.get(`${path}/snapshots`);
      swap(box, data.length === 0 ? el('p', { class: 'empty' }, 'No snapshot yet. Take one before you change the memory.')
        : table('Copies of the whole memory to go back to.', [
          { title: 'Snapshot', cell: (s) => s.name },
          { title: 'Generation', number: true, cell: (s) => number(s.generation) },
          { title: 'Size', number: true, cell: (s) => bytes(s.bytes) },
          { title: 'Taken', cell: (s) => dateTime(s.created) },
          {
            title: 'Actions', cell: (s) => el('span', { class: 'row-actions' },
              el('button', { type: 'button', id: `restore-${s.name}`, 'aria-label': `Restore ${s.name}`, click: () => restore(s) }, 'Restore'),
              el('button', { type: 'button', id: `drop-${s.name}`, 'aria-label': `Delete ${s.name}`, click: () => drop(s) }, 'Delete')),
          },
        ], data));
      controls.hidden = false;
    } catch (error) {
      // 403: the operator keeps none here; the message says how to change that.
      const off = error.unavailable || error.status === 403;
      controls.hidden = off;
      swap(box, off ? el('p', { class: 'soft' }, error.unavailable ? 'Not available on this server.' : error.message) : notice(error.message, 'bad'));
    }
  }

  const controls = el('form', { class: 'inline', submit: take, hidden: true }, field('Name (optional)', name),
    el('button', { type: 'submit' }, 'Take a snapshot'), el('button', { type: 'button', click: rollBack }, 'Roll back'));
  const title = uniqueId('snapshots');
  return {
    node: el('section', { 'aria-labelledby': title }, el('h4', { id: title }, 'Snapshots'), problem, box, controls),
    update(now) {
      if (now === generation) return;
      generation = now;
      load();
    },
  };
}
