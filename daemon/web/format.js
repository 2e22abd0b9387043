// Numbers and times as people read them.

const MINUS = '\u2212';
const NONE = '\u2013';

export function number(value, digits = 0) {
  if (!Number.isFinite(value)) return NONE;
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace('-', MINUS);
}

export function signed(value, digits = 4) {
  if (!Number.isFinite(value)) return NONE;
  const size = Math.abs(value).toFixed(digits);
  if (Number(size) === 0) return size;  // no sign: it rounds to nothing
  return (value < 0 ? MINUS : '+') + size;
}

// An end of an interval that is null is infinite: the test was too small to bound it.
export function interval(ends, digits = 4) {
  if (!Array.isArray(ends)) return '';
  const low = ends[0] === null ? `${MINUS}\u221e` : signed(ends[0], digits);
  const high = ends[1] === null ? '+\u221e' : signed(ends[1], digits);
  return `${low} to ${high}`;
}

export function share(value, digits = 0) {
  return Number.isFinite(value) ? `${number(100 * value, digits)} %` : NONE;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${number(value, unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

export function seconds(value) {
  if (!Number.isFinite(value)) return NONE;
  if (value === 0) return '0 s';
  if (value < 1) return `${number(1000 * value, value < 0.01 ? 1 : 0)} ms`;
  if (value < 60) return `${number(value, value < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(value % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// A small number of things per second.
export function rate(value) {
  return Number.isFinite(value) ? number(value, value > 0 && value < 10 ? 1 : 0) : NONE;
}

export function dateTime(unix) {
  if (!Number.isFinite(unix) || unix <= 0) return NONE;
  const two = (n) => String(n).padStart(2, '0');
  const date = new Date(1000 * unix);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}
