// The page's frame: which section is shown, what the server's state is, and when to ask again.
import * as api from './api.js';
import { askKey } from './dialogs.js';
import { announce } from './dom.js';
import { seconds } from './format.js';
import { createHealth } from './health.js';
import { createJobs } from './jobs.js';
import { createMemories } from './memories.js';
import { History, parse, sum } from './metrics.js';
import { createPlayground } from './playground.js';
import { createSessions } from './sessions.js';

const POLL_S = 5;
const KEPT = 3600 / POLL_S;  // samples: the longest window that Health offers

const history = new History(KEPT);
const keyButton = document.getElementById('key-button');
const state = document.getElementById('state');

function showKeyState() {
  keyButton.textContent = api.hasKey() ? 'API key: set' : 'API key';
}

async function askForKey(message) {
  const key = await askKey(message, api.hasKey());
  if (key === null) return false;
  api.setKey(key);
  showKeyState();
  return key !== '';
}

api.onKeyNeeded(askForKey);
keyButton.addEventListener('click', async () => {
  if (await api.requestKey('')) {
    await poll();
    shown?.view.show(shown.rest);
  }
});

const views = {
  health: createHealth(document.getElementById('view-health'), history),
  memories: createMemories(document.getElementById('view-memories')),
  sessions: createSessions(document.getElementById('view-sessions')),
  jobs: createJobs(document.getElementById('view-jobs')),
  playground: createPlayground(document.getElementById('view-playground')),
};
let shown = null;

// "#memories/headers" -> the section and what in it.
function place() {
  const [name, ...rest] = location.hash.slice(1).split('/');
  let detail = rest.join('/');
  try {
    detail = decodeURIComponent(detail);
  } catch {
    detail = '';
  }
  return Object.hasOwn(views, name) ? { name, detail } : { name: 'health', detail: '' };
}

function navigate(byReader) {
  const { name, detail } = place();
  const moved = shown?.name !== name;
  if (moved) {
    shown?.view.hide?.();
    for (const other of Object.keys(views)) document.getElementById(`view-${other}`).hidden = other !== name;
    for (const link of document.querySelectorAll('nav a')) {
      if (link.hash === `#${name}`) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    const title = document.getElementById(`title-${name}`);
    document.title = `${title.textContent} \u2013 Pointsman`;
    if (byReader) title.focus();
  }
  shown = { name, rest: detail, view: views[name] };
  shown.view.show(detail);
}

function showState(word) {
  if (state.textContent !== word) state.textContent = word;
  state.className = `pill ${word === 'ready' ? 'good' : word === 'unreachable' ? 'bad' : 'warn'}`;
}

async function showServer() {
  const [health, models] = await Promise.all([api.get('/healthz'), api.get('/v1/models')]);
  const model = models.data[0];
  const line = document.getElementById('server');
  line.textContent = [model?.id, model && `${model.meta.layers} layers, ${model.meta.experts_per_token} of ${model.meta.experts} experts`,
    `version ${health.version}`].filter(Boolean).join(' \u00b7 ');
  line.dataset.known = 'yes';
}

async function poll() {
  const before = state.textContent;
  const status = await api.getStatus('/readyz');
  showState(status);
  if (before !== status && before !== 'connecting') announce(`The server is ${status}.`);
  if (status === 'unreachable') {
    views.health.refresh('unreachable');
    return;
  }
  try {
    if (!document.getElementById('server').dataset.known) await showServer();
    history.add(Date.now() / 1000, parse(await api.getText('/metrics')));
    const started = sum(history.latest.families, 'process_start_time_seconds');
    state.title = `up for ${seconds(history.latest.time - started)}`;
    views.health.refresh(status);
  } catch (error) {
    views.health.fail(error);
  }
}

// One after the other, and never two at once: a slow server is not asked more often for being slow.
async function pollForEver() {
  for (;;) {
    await poll();
    await new Promise((done) => setTimeout(done, 1000 * POLL_S));
  }
}

addEventListener('hashchange', () => navigate(true));
showKeyState();
navigate(false);
pollForEver();
