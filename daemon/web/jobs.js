// Jobs: builds, evaluations and additions of documents, with the progress of those that run.
import * as api from './api.js';
import { confirm } from './dialogs.js';
import { announce, badge, el, facts, notice, onChange, swap, tell } from './dom.js';
import { dateTime, number, rate, seconds } from './format.js';

const REFRESH_S = 5;
const FOLLOWED = 2;  // streams at once: a browser opens six connections to a server, and the others are needed too
const KINDS = { build: 'Build', eval: 'Evaluation', documents: 'Documents' };
const BADGES = { succeeded: 'adopt', failed: 'reject', cancelled: 'inconclusive', interrupted: 'inconclusive', running: 'accent', queued: '' };
const alive = (job) => job.status === 'queued' || job.status === 'running';

export function createJobs(root) {
  const problem = el('div');
  const refused = el('div');
  const box = el('div');
  root.append(problem, refused, box);
  const followed = new Map();  // id -> AbortController of its stream
  const bars = new Map();      // id -> {bar, words}
  const statuses = new Map();
  let timer = 0;

  function showProgress(id, progress) {
    const shown = bars.get(id);
    if (!shown || !progress) return;
    const done = progress.fraction ?? (progress.total > 0 ? progress.done / progress.total : null);
    if (Number.isFinite(done)) shown.bar.value = Math.min(1, Math.max(0, done));
    else shown.bar.removeAttribute('value');
    shown.words.textContent = [
      progress.stage,
      Number.isFinite(done) ? `${number(100 * done)} %` : null,
      Number.isFinite(progress.rows_per_s) ? `${rate(progress.rows_per_s)} rows/s` : null,
      Number.isFinite(progress.eta_s) ? `${seconds(progress.eta_s)} left` : null,
      Number.isFinite(progress.loss) ? `loss ${number(progress.loss, 4)}` : null,
    ].filter(Boolean).join(' \u00b7 ');
  }

  async function follow(job) {
    if (followed.has(job.id) || followed.size >= FOLLOWED) return;
    const abort = new AbortController();
    followed.set(job.id, abort);
    try {
      await api.stream(`/v1/jobs/${api.segment(job.id)}/events`, { signal: abort.signal }, (event) => {
        if (event.object !== 'job') showProgress(job.id, event);
      });
      if (!abort.signal.aborted) {
        clearTimeout(timer);
        timer = setTimeout(refresh, 500);  // its end; not at once, should a stream be empty
      }
    } catch (error) {
      // Without its events a job is shown by the list, which is asked for every few seconds anyway.
    } finally {
      followed.delete(job.id);
    }
  }

  async function end(job) {
    const running = alive(job);
    const sure = await confirm(running ? 'Cancel this job?' : 'Forget this job?',
      running ? 'What it has done so far is thrown away.' : 'It leaves the list with its result; what it made stays.', running ? 'Cancel the job' : 'Forget');
    if (!sure) return;
    try {
      await api.remove(`/v1/jobs/${api.segment(job.id)}`);
      tell(refused, '');
      await refresh();
    } catch (error) {
      tell(refused, error.message);
    }
  }

  async function load(job) {
    try {
      await api.post('/v1/memories', job.load);
      tell(refused, '');
      location.hash = `#memories/${api.segment(job.load.id)}`;
    } catch (error) {
      tell(refused, error.message);
    }
  }

  function card(job) {
    const id = `job-${job.id}`;
    const kind = KINDS[job.kind] ?? job.kind;
    let progress = null;
    if (alive(job)) {
      const bar = el('progress', { max: 1, 'aria-labelledby': id });
      const words = el('p', { class: 'soft', id: `${id}-words` });
      bars.set(job.id, { bar, words });
      progress = el('div', { class: 'progress' }, bar, words);
    }
    return el('article', { class: 'card', 'aria-labelledby': id },
      el('div', { class: 'heading' },
        el('h3', { id }, `${kind} `, el('span', { class: 'soft' }, job.memory ?? ''), ' ', badge(job.status, BADGES[job.status])),
        el('p', { class: 'actions' },
          job.load && job.status === 'succeeded' ? el('button', { type: 'button', id: `${id}-load`, click: () => load(job) }, 'Load the memory') : null,
          el('button', { type: 'button', id: `${id}-end`, 'aria-label': `${alive(job) ? 'Cancel' : 'Forget'} ${kind} ${job.id}`, click: () => end(job) },
            alive(job) ? 'Cancel' : 'Forget'))),
      progress,
      job.error ? notice(job.error, 'bad') : null,
      facts([
        ['Job', el('code', {}, job.id)],
        ['Asked for by', job.principal],
        ['Created', dateTime(job.created)],
        ['Took', job.finished && job.started ? seconds(job.finished - job.started) : null],
      ]),
      job.result ? el('details', { id: `${id}-result` }, el('summary', {}, 'Result'),
        el('pre', { class: 'passage', tabindex: '0', 'aria-label': 'Result as JSON' }, JSON.stringify(job.result, null, 2))) : null);
  }

  // Progress changes all the time and moves the bar only; the cards are drawn again when anything else does.
  const draw = onChange((jobs) => {
    bars.clear();
    swap(box, jobs.length === 0
      ? el('div', { class: 'empty' }, el('p', {}, 'No job has been started.'),
        el('p', {}, 'The server runs jobs if it was started with ', el('code', {}, '--jobs DIR'), '. Builds start with ', el('code', {}, 'POST /v1/builds'), ', evaluations with ', el('code', {}, 'POST /v1/evals'),
          ' or the button on a memory\u2019s page.'))
      : jobs.map(card));
  });

  async function refresh() {
    clearTimeout(timer);
    try {
      const { data } = await api.get('/v1/jobs');
      const jobs = data.sort((a, b) => b.created - a.created);
      draw(jobs.map((job) => ({ ...job, progress: null })));
      for (const job of jobs) {
        if (statuses.has(job.id) && statuses.get(job.id) !== job.status) announce(`${KINDS[job.kind] ?? job.kind} ${job.memory ?? ''}: ${job.status}.`);
        statuses.set(job.id, job.status);
        if (!followed.has(job.id)) showProgress(job.id, job.progress);
        if (job.status === 'running' && !root.hidden) follow(job);
      }
      tell(problem, '');
    } catch (error) {
      if (error.unavailable) {
        draw.forget();
        swap(box, el('p', { class: 'empty' }, 'Jobs are not available on this server.'));
        return;
      }
      tell(problem, error.message);
    }
    clearTimeout(timer);
    if (!root.hidden) timer = setTimeout(refresh, 1000 * REFRESH_S);
  }

  return {
    show: refresh,
    hide() {
      clearTimeout(timer);
      for (const abort of followed.values()) abort.abort();
    },
  };
}
