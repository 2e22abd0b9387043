// The server's API. The key, if the server wants one, lives in this tab's sessionStorage and travels in a header only.

const STORED = 'pointsman-key';

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }

  // The route itself is not there: an older server, or one built without it.
  get unavailable() {
    return (this.status === 404 && this.message.endsWith('no such resource')) || this.status === 405;
  }
}

export const hasKey = () => Boolean(sessionStorage.getItem(STORED));
export function setKey(key) {
  if (key) sessionStorage.setItem(STORED, key);
  else sessionStorage.removeItem(STORED);
}

// askForKey(message) -> Promise<bool>: set by app.js; resolves to false if the reader has none. One question at a time,
// and not again by itself after a refusal.
let askForKey = async () => false;
let question = null;
let declined = false;
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export async function requestKey(message) {
  declined = false;
  question ??= askForKey(message).finally(() => { question = null; });
  const given = await question;
  declined = !given;
  return given;
}

async function errorOf(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch {
    // not JSON: something between us and the server answered
  }
  return new ApiError(answer.status, error.message ?? `the server answered ${answer.status}`, error.code);
}

async function send(path, { method = 'GET', body, signal } = {}) {
  for (;;) {
    const headers = {};
    const key = sessionStorage.getItem(STORED);
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    let answer;
    try {
      answer = await fetch(path, {
        method, headers, signal, cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer',
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ApiError(0, 'the server cannot be reached', 'unreachable');
    }
    if (answer.ok) return answer;
    const error = await errorOf(answer);
    if (answer.status !== 401) throw error;
    // Somebody may have given the key while this request was on its way.
    if (sessionStorage.getItem(STORED) !== key) continue;
    if (declined || !(await requestKey(error.message))) throw error;
  }
}

export async function get(path, options) {
  return (await send(path, options)).json();
}

export async function getText(path, options) {
  return (await send(path, options)).text();
}

// For the two readiness answers: 503 is an answer there, not a failure.
export async function getStatus(path) {
  try {
    const answer = await fetch(path, { cache: 'no-store', credentials: 'omit' });
    return (await answer.json()).status ?? 'unreachable';
  } catch {
    return 'unreachable';
  }
}

export const post = (path, body, options) => get(path, { ...options, method: 'POST', body });
export const patch = (path, body) => get(path, { method: 'PATCH', body });
export const remove = (path) => get(path, { method: 'DELETE' });

// Server-sent events over fetch: EventSource cannot send a key. Calls onData with each event's JSON until [DONE].
export async function stream(path, options, onData) {
  const answer = await send(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const events = rest.split('\n\n');
    rest = events.pop();
    for (const event of events) {
      const data = event.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trimStart()).join('\n');
      if (data === '') continue;  // a comment: the server's sign of life
      if (data === '[DONE]') {
        reader.cancel();
        return;
      }
      onData(JSON.parse(data));
    }
  }
}

export const segment = (text) => encodeURIComponent(text);
