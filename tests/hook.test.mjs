// The browser hook against a fake server: `node --test tests/hook.test.mjs`.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';
import { gzipSync } from 'node:zlib';

// The import takes a URL, since node reads a `.js` file without a package.json beside it as CommonJS.
// The served text has no comment lines.
const source = readFileSync(new URL('../src/writeback/hook.js', import.meta.url), 'utf8').replaceAll(/^ *\/\/.*\n|^ +/gm, '');
const { connect } = await import(`data:text/javascript;base64,${Buffer.from(source).toString('base64')}`);

const faked = ['fetch', 'setTimeout', 'clearTimeout', 'navigator', 'document', 'addEventListener', 'EventSource', 'BroadcastChannel'];
const real = Object.fromEntries(faked.map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]));
const { random } = Math;
const { now } = Date;
let posts, sources, channels, timers, page;
let time = 0; // milliseconds

/** A fake `EventSource`: the test sends the events. */
class Source extends EventTarget {
  closed = false;

  constructor(url, init) {
    super();
    this.url = url;
    this.init = init;
    sources.push(this);
  }

  tell(type, data) {
    this.dispatchEvent(new MessageEvent(type, { data: JSON.stringify(data) }));
  }

  /** Sends a state: `true` stands for a session, `false` for a visitor, and a string is a session's mark. */
  state(session, values = {}, user = '') {
    const mark = session === true ? 'aaaa' : session || '';
    this.tell('state', { session: mark, user, heartbeat: 15_000, values });
  }

  /** Reports a lost connection, or an answer that is no stream, as a browser does. */
  fail() {
    this.onerror(new Event('error'));
  }

  close() {
    this.closed = true;
  }
}

/** A fake `BroadcastChannel` between the tabs of one browser. */
class Channel {
  constructor(name) {
    this.name = name;
    channels.add(this);
  }

  postMessage(data) {
    for (const other of channels) if (other !== this && other.name === this.name) other.onmessage({ data });
  }

  close() {
    channels.delete(this);
  }
}

beforeEach(() => {
  posts = [];
  sources = [];
  channels = new Set();
  timers = new Map();
  page = new EventTarget();
  const fakes = {
    fetch: (url, init) =>
      new Promise((resolve, reject) => posts.push({ url, init, body: JSON.parse(init.body ?? null), resolve, reject })),
    setTimeout: (run, delay) => {
      const id = Symbol(delay);
      timers.set(id, { run, delay });
      return id;
    },
    clearTimeout: (id) => timers.delete(id),
    navigator: { onLine: true },
    document: Object.assign(new EventTarget(), { hidden: false, baseURI: 'https://shop.test/page' }),
    addEventListener: (...listener) => page.addEventListener(...listener),
    EventSource: Source,
    BroadcastChannel: Channel,
  };
  for (const [name, value] of Object.entries(fakes)) set(name, { value, configurable: true, writable: true });
  Math.random = () => 1;
  Date.now = () => time;
});

afterEach(() => {
  for (const name of faked) set(name, real[name]);
  Math.random = random;
  Date.now = now;
});

function set(name, descriptor) {
  delete globalThis[name];
  if (descriptor) Object.defineProperty(globalThis, name, descriptor);
}

/** Opens a hook, by default without a stream, and records its events. */
function open(options = { events: false }) {
  const session = connect({ url: '/session', ...options });
  const events = [];
  for (const type of ['stored', 'conflict', 'refused', 'change', 'closed', 'lost', 'turned', 'begun']) {
    session.addEventListener(type, ({ detail }) => events.push([type, detail]));
  }
  return { session, events };
}

/** Opens a hook with a stream of a session that has sent these values. */
function follow(values = {}, user = '') {
  const { session, events } = open({});
  const source = sources.at(-1);
  source.state(true, values, user);
  events.length = 0;
  return { session, events, source };
}

const values = ({ values }) => Object.fromEntries(values);

const bodies = () => posts.map(({ body }) => body);
const settled = () => new Promise(setImmediate);

/** Answers the newest POST. */
async function answer(status, body) {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  posts.at(-1).resolve({ status, json: async () => JSON.parse(text) });
  await settled();
}

const stored = () => answer(200, { stored: Object.keys(posts.at(-1).body) });

async function cut() {
  posts.at(-1).reject(new TypeError('failed to fetch'));
  await settled();
}

/** The timers that watch for silence: two and a half heartbeats for a stream, 3 s for an answer of the leading tab. */
const watches = () => [...timers].filter(([, { delay }]) => delay === 37_500 || delay === 3_000);

/** The timers of backoff. */
const waits = () => [...timers].filter(([, { delay }]) => delay !== 37_500 && delay !== 3_000);

/** Runs the only timer of backoff, and returns its delay. */
async function wait() {
  assert.equal(waits().length, 1);
  const [[id, { run, delay }]] = waits();
  timers.delete(id);
  run();
  await settled();
  return delay;
}

test('credentials go with every request', () => {
  for (const [options, credentials, withCredentials] of [
    [{}, 'same-origin', false],
    [{ credentials: 'include' }, 'include', true],
  ]) {
    posts = [];
    sources = [];
    const session = connect({ url: 'https://api.example/session', ...options });
    session.store({ theme: 'dark' });
    assert.equal(posts[0].init.credentials, credentials);
    assert.equal(sources[0].init.withCredentials, withCredentials);
    session.close();
  }
});

test('value is posted as JSON and announced', async () => {
  const { session, events } = open();
  session.store({ theme: 'dark', filter: { open: true } });
  assert.equal(posts[0].url, '/session');
  const { body, ...init } = posts[0].init;
  assert.deepEqual(init, {
    method: 'POST',
    keepalive: true,
    headers: { 'content-type': 'application/json' },
    credentials: 'same-origin',
  });
  assert.equal(body, '{"theme":"dark","filter":{"open":true}}');
  await stored();
  assert.deepEqual(events, [['stored', { stored: ['theme', 'filter'], ignored: [] }]]);
  assert.equal(posts.length, 1);
  assert.equal(timers.size, 0);
});

test('writes during a POST go together', async () => {
  const { session } = open();
  session.store({ a: 1 });
  session.store({ a: 2, b: 1 });
  session.store({ a: 3 });
  assert.equal(posts.length, 1);
  await stored();
  assert.deepEqual(bodies(), [{ a: 1 }, { a: 3, b: 1 }]);
});

test('special object names are plain names', async () => {
  const { session } = open();
  session.store(JSON.parse('{"__proto__":{"x":1},"constructor":2,"toString":3,"a\\"b":4}'));
  assert.equal(posts[0].init.body, '{"__proto__":{"x":1},"constructor":2,"toString":3,"a\\"b":4}');
  await answer(503, {});
  await wait();
  assert.equal(posts[1].init.body, posts[0].init.body);
  assert.equal({}.x, undefined);
});

test('non-JSON value throws and changes nothing', () => {
  const { session } = open();
  for (const value of [undefined, () => {}, 1n]) assert.throws(() => session.store({ a: 1, b: value }), TypeError);
  assert.equal(posts.length, 0);
});

test('later mutation does not change a stored value', async () => {
  const { session } = open();
  const cart = { lines: 1 };
  session.store({ first: true });
  session.store({ cart });
  cart.lines = 2;
  await stored();
  assert.deepEqual(posts[1].body, { cart: { lines: 1 } });
});

test('POST stays within the server’s limits', async () => {
  const { session } = open();
  session.store(Object.fromEntries(Array.from({ length: 70 }, (_, n) => [`n${n}`, n])));
  assert.equal(Object.keys(posts[0].body).length, 64);
  await stored();
  assert.equal(Object.keys(posts[1].body).length, 6);
  session.store(Object.fromEntries(Array.from({ length: 10 }, (_, n) => [`s${n}`, '€'.repeat(1_200)])));
  session.store({ huge: 'x'.repeat(20_000) });
  for (let sent = 2; sent <= 4; sent++) {
    await stored();
    assert.equal(posts.length, sent + 1);
    assert.ok(Buffer.byteLength(posts[sent].init.body) <= 16 << 10);
  }
  await stored();
  assert.deepEqual(Object.keys(posts[5].body), ['huge'], 'an oversized value goes alone, and the server refuses the value');
});

test('newest relay token goes before values', async () => {
  const { session } = open();
  session.relay('t1');
  session.store({ a: 1 });
  session.relay('t2');
  session.relay('t3');
  assert.equal(posts.length, 1);
  await stored();
  await stored();
  assert.deepEqual(bodies(), [{ $relay: 't1' }, { $relay: 't3' }, { a: 1 }]);
});

for (const [fault, fail] of [
  ['a cut connection', cut],
  ['status 408', () => answer(408, { code: 'timeout' })],
  ['status 429', () => answer(429, 'slow down')],
  ['status 500', () => answer(500, {})],
  ['status 503', () => answer(503, { code: 'unavailable' })],
  ['a login page', () => answer(200, '<html>')],
  ['a null response', () => answer(200, 'null')],
  ['a truncated response', () => answer(200, '{"stored":["a"')],
]) {
  test(`POST repeats after ${fault}`, async () => {
    const { session, events } = open();
    session.store({ a: 1, b: 1 });
    session.store({ b: 2, c: 2 });
    await fail();
    session.store({ c: 3 });
    assert.equal(posts.length, 1, 'the POST repeats after the delay only');
    await wait();
    assert.deepEqual(posts[1].body, { a: 1, b: 2, c: 3 });
    session.relay('t1');
    await stored();
    await fail();
    session.relay('t2');
    await wait();
    assert.deepEqual(bodies().slice(2), [{ $relay: 't1' }, { $relay: 't2' }]);
    assert.deepEqual(events, [['stored', { stored: ['a', 'b', 'c'], ignored: [] }]]);
  });
}

test('newer relay token replaces a failed token', async () => {
  const { session } = open();
  session.relay('t1');
  await cut();
  await wait();
  session.relay('t2');
  await cut();
  await wait();
  await stored();
  assert.deepEqual(bodies(), [{ $relay: 't1' }, { $relay: 't1' }, { $relay: 't2' }]);
});

test('retry delays double up to 30 s', async () => {
  const { session } = open();
  session.store({ a: 1 });
  const waits = [];
  for (let n = 0; n < 10; n++) {
    await cut();
    waits.push(await wait());
  }
  assert.deepEqual(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
  await stored();
  session.store({ a: 2 });
  await cut();
  Math.random = () => 0.5;
  assert.equal(await wait(), 250);
  await cut();
  assert.equal(await wait(), 250, 'the jitter takes half of 500 ms');
});

test('conflict drops the token and keeps the values', async () => {
  const { session, events } = open();
  const ended = { code: 'session_ended', message: 'the session has ended', names: [] };
  session.relay('old');
  session.store({ a: 1 });
  await answer(409, ended);
  assert.deepEqual(bodies(), [{ $relay: 'old' }, { a: 1 }]);
  await answer(409, ended);
  assert.deepEqual(events, [['conflict', ended], ['conflict', ended]]);
  await wait();
  assert.deepEqual(posts[2].body, { a: 1 }, 'the POST repeats by itself, since another tab may have brought a cookie');
  await answer(409, ended);
  session.store({ b: 2 });
  session.relay('new');
  assert.equal(await wait(), 250, 'a new token shortens the delay of a conflict');
  await stored();
  assert.deepEqual(bodies().slice(3), [{ $relay: 'new' }, { a: 1, b: 2 }]);
  await stored();

  session.store({ c: 3 });
  await cut();
  await wait();
  await cut();
  session.relay('next');
  assert.equal(await wait(), 500, 'a new token does not shorten the delay of a failure');
  assert.deepEqual(posts.at(-1).body, { $relay: 'next' });
});

test('resuming at each conflict keeps the delay', async () => {
  const { session } = open();
  session.addEventListener('conflict', () => session.resume());
  session.store({ a: 1 });
  for (let n = 1; n < 5; n++) {
    await answer(409, {});
    assert.equal(posts.length, n);
    assert.equal(await wait(), 250);
  }
  await stored();
  assert.equal(posts.length, 5);
});

test('only refused values are dropped', async () => {
  const { session, events } = open();
  session.store({ a: 1 });
  session.store({ a: 2, bad: 1, b: 3 });
  await stored();
  await answer(422, { code: 'invalid', message: 'not a number', names: ['bad', 'elsewhere'] });
  assert.deepEqual(posts[2].body, { a: 2, b: 3 });
  await answer(413, { code: 'too_large', message: 'too large' });
  session.store({ c: 1 });
  await answer(404, '<html>');
  session.store({ d: 1 });
  await answer(422, { code: 'too_large', message: 'too large', names: ['elsewhere'] });
  session.relay('t');
  await answer(400, { code: 'bad_token', message: 'does not open' });
  assert.deepEqual(events.slice(1), [
    ['refused', { code: 'invalid', message: 'not a number', names: ['bad'] }],
    ['refused', { code: 'too_large', message: 'too large', names: ['a', 'b'] }],
    ['refused', { code: 'http_404', message: '', names: ['c'] }],
    ['refused', { code: 'too_large', message: 'too large', names: ['d'] }],
    ['refused', { code: 'bad_token', message: 'does not open', names: [] }],
  ]);
  assert.equal(posts.length, 6);
  assert.equal(timers.size, 0);
});

test('offline hook tries once, then waits longer', async () => {
  const { session } = open();
  navigator.onLine = false;
  session.store({ a: 1 });
  assert.deepEqual(bodies(), [{ a: 1 }]);
  await cut();
  assert.equal(await wait(), 30_000);
  await cut();
  session.resume();
  assert.equal(await wait(), 250);
  await cut();
  navigator.onLine = true;
  page.dispatchEvent(new Event('online'));
  assert.equal(await wait(), 250);
  await stored();
  assert.deepEqual(bodies(), Array(4).fill({ a: 1 }));
});

test('leaving page posts everything pending', async () => {
  const { session } = open();
  session.store({ a: 1, b: 1 });
  session.relay('t');
  session.store({ a: 2 });
  page.dispatchEvent(new Event('pagehide'));
  assert.deepEqual(bodies(), [{ a: 1, b: 1 }, { $relay: 't' }, { a: 2 }]);
  assert.ok(posts.every(({ init }) => init.keepalive));
  // Once the page is back, the hook repeats a failed value unless a newer value of that name has been sent.
  await stored();
  posts[0].reject(new TypeError('failed to fetch'));
  await settled();
  assert.equal(posts.length, 3);
  posts[1].reject(new TypeError('failed to fetch'));
  await settled();
  await wait();
  await stored();
  assert.deepEqual(bodies().slice(3), [{ $relay: 't' }, { b: 1 }]);
});

test('leaving page posts despite a retry delay', async () => {
  const { session } = open();
  session.store({ a: 1 });
  await cut();
  page.dispatchEvent(new Event('pagehide'));
  assert.deepEqual(bodies(), [{ a: 1 }, { a: 1 }]);
});

test('a closed hook posts and announces nothing', async () => {
  const { session, events } = open();
  session.store({ a: 1 });
  session.store({ b: 1 });
  session.close();
  await stored();
  session.store({ c: 1 });
  session.relay('t');
  session.resume();
  page.dispatchEvent(new Event('online'));
  page.dispatchEvent(new Event('pagehide'));
  await settled();
  assert.equal(posts.length, 1);
  assert.deepEqual(events, []);

  const waiting = open().session;
  waiting.store({ a: 1 });
  await cut();
  waiting.close();
  assert.equal(posts.length, 2);
  assert.equal(timers.size, 0);

  const following = follow({ a: 1 });
  following.session.close();
  assert.ok(following.source.closed);
  assert.equal(channels.size, 0);
  following.session.resume();
  page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
  assert.equal(sources.length, 1);
  assert.deepEqual(following.events, []);
});

test('values follow the server’s events', () => {
  const { session, events } = open({});
  const [source] = sources;
  assert.equal(source.url, '/session/events');
  source.state(true, { theme: 'dark', off: false, none: null });
  assert.deepEqual(values(session), { theme: 'dark', off: false, none: null });
  source.tell('set', { theme: 'light', size: 3 });
  source.tell('removed', ['off', 'unheard-of']);
  assert.deepEqual(values(session), { theme: 'light', none: null, size: 3 });
  source.tell('set', { toString: 1 });
  source.state(true, JSON.parse('{"size":4,"__proto__":1}'));
  assert.deepEqual([...session.values], [['size', 4], ['__proto__', 1]]);
  assert.deepEqual(
    events.map(([type, { names }]) => [type, names]),
    [
      ['change', ['theme', 'off', 'none']],
      ['change', ['theme', 'size']],
      ['change', ['off', 'unheard-of']],
      ['change', ['toString']],
      ['change', ['theme', 'none', 'toString', 'size', '__proto__']],
    ],
  );
});

test('stored value appears after the server’s event', async () => {
  const { session, source } = follow({ theme: 'dark' });
  session.store({ theme: 'light' });
  assert.deepEqual(values(session), { theme: 'dark' });
  source.tell('set', { theme: 'light' });
  await stored();
  assert.deepEqual(values(session), { theme: 'light' });
  assert.equal(sources.length, 1, 'the stream of a session stays open');
});

test('mount URL may end with a slash', async () => {
  connect({ url: '/' }).store({ a: 1 });
  connect({ url: '/app/session/' }).store({ a: 1 });
  assert.deepEqual([...posts, ...sources].map(({ url }) => url), ['/', '/app/session', '/events', '/app/session/events']);
});

test('relay token of the stream is posted', async () => {
  const { source } = follow();
  source.tell('relay', 'b.t1');
  assert.deepEqual(bodies(), [{ $relay: 'b.t1' }]);
});

for (const [end, kept] of [['renewed', {}], ['destroyed', {}], ['shutdown', { theme: 'dark' }]]) {
  test(`stream reopens after close reason ${end}`, async () => {
    const { session, events, source } = follow({ theme: 'dark' });
    source.tell('closed', end);
    assert.deepEqual(values(session), kept);
    assert.deepEqual(events.slice(-2), [['closed', { reason: end }], ['lost', null]]);
    assert.ok(source.closed);
    await wait();
    sources[1].state(false, { theme: 'default' });
    assert.deepEqual(values(session), { theme: 'default' });
  });
}

test('failed stream reopens with growing delays', async () => {
  const { session } = follow({ theme: 'dark' });
  const waits = [];
  for (let n = 0; n < 9; n++) {
    sources.at(-1).fail();
    waits.push(await wait());
  }
  assert.deepEqual(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  assert.deepEqual(values(session), { theme: 'dark' });
  sources.at(-1).state(true);
  sources.at(-1).fail();
  assert.equal(await wait(), 30_000, 'a stream that ends at once does not reset the delay');
  sources.at(-1).state(true);
  time += 60_000;
  sources.at(-1).fail();
  assert.equal(await wait(), 250);
  assert.equal(sources.filter(({ closed }) => !closed).length, 1);
});

test('stream delay and POST delay are independent', async () => {
  const { session, source } = follow();
  source.fail();
  session.store({ a: 1 });
  assert.deepEqual(bodies(), [{ a: 1 }]);
  await answer(503, {});
  assert.equal(timers.size, 2);
});

test('first POST reopens visitor streams in every tab', async () => {
  const [mine, other] = [open({}), open({})];
  const elsewhere = connect({ url: '/elsewhere' });
  const [first, second, third] = sources;
  for (const source of [first, second, third]) source.state(false);
  mine.session.store({ a: 1 });
  assert.ok(!first.closed);
  await stored();
  assert.deepEqual([first, second, third].map(({ closed }) => closed), [true, true, false]);
  assert.deepEqual(sources.slice(3).map(({ url }) => url).sort(), ['/session/events', '/session/events']);
  for (const source of sources.slice(3)) source.state(true, { a: 1 });
  assert.deepEqual([values(mine.session), values(other.session)], [{ a: 1 }, { a: 1 }]);
  mine.session.store({ a: 2 });
  await stored();
  mine.session.resume();
  assert.equal(sources.length, 5, 'the stream of a session needs no reopening');
  elsewhere.close();
});

test('resume reopens the visitor’s stream', async () => {
  const { session } = open({});
  sources[0].state(false);
  session.resume();
  assert.ok(sources[0].closed);
  assert.equal(sources.length, 2);
  sources[1].fail();
  session.resume();
  assert.equal(sources.length, 2, 'resume waits after a failed stream');
  assert.equal(await wait(), 250);
});

test('new session shortens the delay after a conflict', async () => {
  const { session, source } = follow();
  session.store({ a: 1 });
  source.tell('closed', 'renewed');
  source.fail();
  await answer(409, {});
  assert.equal(timers.size, 2);
  const [[stream, { run }]] = timers;
  timers.delete(stream);
  run();
  Math.random = () => 0.5;
  sources[1].state(true);
  assert.equal(await wait(), 125, 'a short delay replaces the long delay');
  assert.deepEqual(bodies(), [{ a: 1 }, { a: 1 }]);
});

test('stream opens offline too', async () => {
  navigator.onLine = false;
  const { session } = open({});
  assert.equal(sources.length, 1);
  sources[0].fail();
  session.resume();
  assert.equal(await wait(), 250);
  sources[1].state(true, { a: 1 });
  assert.deepEqual(values(session), { a: 1 });
});

test('offline page reports the loss and tries once', async () => {
  const { events, source } = follow();
  navigator.onLine = false;
  page.dispatchEvent(new Event('offline'));
  assert.ok(source.closed);
  assert.deepEqual(events, [['lost', null]]);
  assert.equal(sources.length, 2);
  sources[1].fail();
  assert.equal(waits()[0][1].delay, 30_000);
  navigator.onLine = true;
  page.dispatchEvent(new Event('online'));
  assert.equal(await wait(), 250);
  assert.equal(sources.length, 3);
});

test('restored page reopens the stream', () => {
  const { source } = follow();
  page.dispatchEvent(new Event('pagehide'));
  assert.ok(source.closed);
  page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: false }));
  assert.equal(sources.length, 1);
  page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
  assert.equal(sources.length, 2);
});

test('hook without events opens no stream', async () => {
  const { session } = open();
  session.store({ a: 1 });
  await stored();
  session.resume();
  page.dispatchEvent(new Event('online'));
  assert.equal(sources.length, 0);
});

test('type declarations match the hook', () => {
  const types = readFileSync(new URL('../src/writeback/hook.d.ts', import.meta.url), 'utf8');
  const { session } = open();
  const methods = Object.getOwnPropertyNames(Object.getPrototypeOf(session)).filter((name) => name !== 'constructor');
  for (const name of [...methods, ...Object.keys(session)]) assert.match(types, new RegExp(`^  (readonly )?${name}[(:]`, 'm'));
  const emitted = new Set([...source.toString().matchAll(/#emit\('(\w+)'/g)].map(([, type]) => type));
  assert.equal(emitted.size, 8);
  for (const type of emitted) assert.match(types, new RegExp(`^  ${type}: CustomEvent`, 'm'));
});

test('hook is small and needs no eval', () => {
  assert.ok(gzipSync(source).length <= 4_700);
  assert.doesNotMatch(source.toString(), /\beval\b|\bFunction\b|innerHTML|\bimport\b/);
});

test('value over the keepalive limit blocks no others', async () => {
  const { session, events } = open();
  const { fetch } = globalThis;
  // A browser's limit: https://fetch.spec.whatwg.org/#http-network-or-cache-fetch, 64 KiB in flight with keepalive.
  globalThis.fetch = (url, init) =>
    init.keepalive && init.body.length > 65_536 ? Promise.reject(new TypeError('Failed to fetch')) : fetch(url, init);
  session.store({ big: 'x'.repeat(70_000) });
  await settled();
  session.store({ theme: 'dark' });
  for (let n = 0; n < 5 && timers.size; n++) await wait();
  if (posts.length && 'big' in posts[0].body) await answer(413, { code: 'too_large', message: '' });
  assert.ok(posts.some(({ body }) => 'theme' in body), 'the theme is posted');
  assert.deepEqual(events.filter(([type]) => type === 'refused').map(([, { names }]) => names), [['big']]);
});

test('pending value is never posted for another user', async () => {
  const { session, events, source } = follow({ draft: '' }, 'ada');
  session.store({ draft: 'dear diary' });
  assert.equal(posts[0].init.headers['session-user'], 'ada');
  await cut();
  source.tell('closed', 'destroyed'); // ada signs out in another tab
  source.fail();
  const [, [stream, { run }]] = timers;
  timers.delete(stream);
  run();
  sources[1].state(true, { draft: '' }, 'bob'); // bob signs in
  assert.deepEqual(events.at(-2), ['refused', { code: 'user_changed', message: '', names: ['draft'] }]);
  await wait();
  assert.equal(posts.length, 1);
  session.store({ draft: 'his' });
  assert.equal(posts[1].init.headers['session-user'], 'bob');
});

test('refusal for a changed user drops the value', async () => {
  const { session, events } = follow({}, 'ada');
  session.store({ draft: 'dear diary' });
  await answer(409, { code: 'user_changed', message: 'somebody else' });
  assert.deepEqual(events, [['refused', { code: 'user_changed', message: 'somebody else', names: ['draft'] }]]);
  assert.equal(waits().length, 0);

  session.store({ draft: 'again' });
  sources[0].state(true, {}, 'bob');
  await cut();
  assert.deepEqual(events.at(-1), ['refused', { code: 'user_changed', message: '', names: ['draft'] }]);
  assert.equal(waits().length, 0);
});

test('user change without pending values refuses nothing', async () => {
  const { session, events } = follow({}, 'ada');
  session.store({ a: 1 });
  sources[0].state(true, {}, 'bob');
  await stored();
  session.relay('t');
  sources[0].state(true, {}, 'ada');
  await answer(409, { code: 'relay_other_session' });
  const told = events.filter(([type]) => type !== 'change');
  assert.deepEqual(told, [['stored', { stored: ['a'], ignored: [] }]]);
});

test('resume while connecting opens one more stream', async () => {
  const { session } = open({});
  session.resume();
  assert.equal(sources.length, 1);
  sources[0].state(false);
  assert.equal(sources.length, 2);
  session.resume();
  sources[1].fail();
  await wait();
  sources[2].state(false);
  assert.equal(sources.length, 3, 'the third stream was opened after the session began');
});

test('values stored before the first state are kept', async () => {
  const { session } = open({});
  session.store({ a: 0 });
  session.store({ a: 1 });
  assert.equal('session-user' in posts[0].init.headers, false);
  sources[0].state(true, {}, 'ada');
  session.store({ b: 1 });
  await cut();
  await wait();
  assert.deepEqual(posts[1].body, { a: 1, b: 1 });
  assert.equal(posts[1].init.headers['session-user'], 'ada');
});

test('renewed session of the same user keeps values', async () => {
  const { session, source } = follow({}, 'ada');
  session.store({ draft: 'dear diary' });
  source.tell('closed', 'renewed');
  source.fail();
  await answer(409, { code: 'session_closed' });
  const [[stream, { run }]] = timers;
  timers.delete(stream);
  run();
  sources[1].state(true, {}, 'ada');
  await wait();
  assert.deepEqual(posts[1].body, { draft: 'dear diary' });
});

test('lost stream is announced', () => {
  const { events, source } = follow();
  source.fail();
  assert.deepEqual(events, [['lost', null]]);
});

test('each tab opens one stream after coming online', async () => {
  navigator.onLine = false;
  for (let n = 0; n < 10; n++) open({});
  navigator.onLine = true;
  page.dispatchEvent(new Event('online'));
  assert.equal(sources.length, 10);
});

test('stream reopens when the network returns', async () => {
  follow();
  navigator.onLine = false;
  page.dispatchEvent(new Event('offline'));
  navigator.onLine = true;
  page.dispatchEvent(new Event('online'));
  assert.equal(sources.length, 2);
});

test('frequent writes do not starve the stream', async () => {
  const { session } = open({});
  for (let n = 0; n < 5; n++) {
    session.store({ n });
    await stored();
  }
  assert.ok(sources.length <= 2, `the hook opened ${sources.length} streams before the first state`);
});

test('turn token goes before values and relay tokens', async () => {
  const { session } = open();
  session.store({ first: 1 });
  session.store({ theme: 'dark' });
  session.relay('r.changes');
  session.relay('t.order');
  session.relay('r.later');
  await stored();
  assert.deepEqual(bodies(), [{ first: 1 }, { $relay: 't.order' }]);
});

test('only turn tokens replace a turn token', async () => {
  const { session } = open();
  session.store({ first: 1 });
  session.relay('t.old');
  session.relay('r.changes');
  session.relay('t.new');
  await stored();
  await answer(200, { stored: ['$relay'] });
  // The hook drops the pending values of the old session at the turn.
  assert.deepEqual(bodies(), [{ first: 1 }, { $relay: 't.new' }]);
});

test('turn empties every tab and reopens streams', async () => {
  const { session, events } = follow({ theme: 'dark' });
  const other = follow({ theme: 'dark' });
  const silent = open();
  const told = [];
  const channel = new Channel('layered-session https://shop.test/session same-origin');
  channel.onmessage = ({ data: { type } }) => told.push(type);
  const before = sources.length;
  session.relay('t.order');
  await answer(200, { stored: ['$relay'] });
  for (const tab of [{ session, events }, other]) {
    assert.deepEqual(values(tab.session), {});
    assert.deepEqual(tab.events.at(-1), ['turned', null]);
  }
  assert.ok(silent.events.some(([type]) => type === 'turned'));
  assert.equal(sources.length, before + 2);
  assert.deepEqual(told, ['turned']);
});

test('turn drops pending values without a stream', async () => {
  const { session, events } = open();
  session.store({ first: 1 });
  session.relay('t.order');
  session.store({ draft: 'dear diary' });
  await stored();
  await answer(200, { stored: ['$relay'] });
  assert.deepEqual(bodies(), [{ first: 1 }, { $relay: 't.order' }]);
  const refused = events.filter(([type]) => type === 'refused').map(([, { code, names }]) => [code, names]);
  assert.deepEqual(refused, [['user_changed', ['draft']]]);
});

test('refused turn token is not repeated', async () => {
  for (const [status, code] of [[409, 'token_used'], [409, 'user_changed'], [409, 'relay_expired']]) {
    const { session, events, source } = follow({ theme: 'dark' });
    session.relay('t.order');
    session.relay('r.changes');
    await answer(status, { code, message: 'no' });
    assert.ok(source.closed);
    assert.deepEqual(events.slice(-2), [['turned', null], ['conflict', { code, message: 'no', names: [] }]]);
    assert.equal(bodies().at(-1).$relay, 't.order', 'the turn drops the pending relay token');
    session.close();
  }
  const { session, events } = open();
  session.relay('t.order');
  await answer(400, { code: 'relay_invalid', message: 'no' });
  assert.deepEqual(events, [['refused', { code: 'relay_invalid', message: 'no', names: [] }]]);
});

test('turn token repeats after an outage', async () => {
  for (const status of [503, 429]) {
    const { session } = open();
    session.relay('t.order');
    await answer(status, { code: 'unavailable', message: '' });
    await wait();
    assert.deepEqual(bodies().slice(-2), [{ $relay: 't.order' }, { $relay: 't.order' }]);
    session.close();
  }
});

// ---- several tabs of one browser

/** A fake of web locks: the holder and the queue of each name. */
class Locks {
  #held = new Map();
  #queues = new Map();

  request(name, { signal, steal }, run) {
    return new Promise((resolve, reject) => {
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, queue);
      const aborted = () => new DOMException('the request was aborted', 'AbortError');
      const claim = { run, resolve, reject: () => reject(aborted()) };
      signal?.addEventListener('abort', () => {
        if (!queue.includes(claim)) return;
        queue.splice(queue.indexOf(claim), 1);
        claim.reject();
      });
      if (steal) {
        const stolen = this.#held.get(name);
        this.#grant(name, claim);
        stolen?.reject();
      } else if (this.#held.has(name)) queue.push(claim);
      else this.#grant(name, claim);
    });
  }

  #grant(name, claim) {
    this.#held.set(name, claim);
    Promise.resolve(claim.run()).then((result) => {
      claim.resolve(result);
      if (this.#held.get(name) !== claim) return;
      this.#held.delete(name);
      const next = this.#queues.get(name).shift();
      if (next) this.#grant(name, next);
    });
  }
}

/** Tabs that share a stream, each with its first state. */
async function tabs(count, ...state) {
  navigator.locks ??= new Locks();
  const all = [];
  for (let n = 0; n < count; n++) {
    const tab = open({});
    tab.source = sources.at(-1);
    tab.source.state(...state);
    tab.events.length = 0;
    all.push(tab);
  }
  await settled();
  return all;
}

const streaming = () => sources.filter(({ closed }) => !closed);

/** Runs timers that watch for silence, and returns their delays. */
async function silence(due = watches()) {
  for (const [id, { run }] of due) {
    timers.delete(id);
    run();
  }
  await settled();
  return due.map(([, { delay }]) => delay);
}

test('tabs share one stream', async () => {
  const all = await tabs(8, true, { theme: 'dark' });
  assert.deepEqual(streaming(), [all[0].source]);
  all[0].source.tell('set', { theme: 'light', size: 1 });
  all[0].source.tell('removed', ['size']);
  for (const { session, events } of all) {
    assert.deepEqual(values(session), { theme: 'light' });
    assert.deepEqual(events.map(([, { names }]) => names), [['theme', 'size'], ['size']]);
  }
});

test('only the leading tab posts a relay token', async () => {
  const [leader] = await tabs(3, true);
  leader.source.tell('relay', 'r.1');
  assert.deepEqual(bodies(), [{ $relay: 'r.1' }]);
});

test('early change applies after the first state', async () => {
  const [leader] = await tabs(1, true, { n: 1 });
  const late = open({});
  leader.source.tell('set', { n: 2 });
  assert.deepEqual(values(late.session), {}, 'the tab’s own session is not known yet');
  sources.at(-1).state(true, { n: 1, m: 1 });
  assert.deepEqual(values(late.session), { n: 2, m: 1 });
});

test('another session or user triggers a new state', async () => {
  for (const [mark, user, kept] of [['bbbb', '', { theme: 'dark' }], [true, 'bob', {}]]) {
    const [leader, other] = await tabs(2, true, { theme: 'dark' });
    leader.source.state(mark, { theme: 'bob’s' }, user);
    assert.deepEqual(values(other.session), kept);
    assert.equal(await wait(), 250);
    sources.at(-1).state(mark, { theme: 'bob’s own' }, user);
    assert.deepEqual(values(other.session), { theme: 'bob’s own' });
    leader.source.tell('set', { theme: 'blue' });
    assert.deepEqual(values(other.session), { theme: 'blue' });
    assert.deepEqual(streaming(), [leader.source]);
    leader.session.close();
    other.session.close();
    await settled();
  }
});

test('newer marks make the leading tab reconnect', async () => {
  const [leader] = await tabs(1, true, {}, '');
  const [signedIn] = await tabs(1, true, { theme: 'ada’s' }, 'ada');
  assert.ok(leader.source.closed);
  await wait();
  const again = sources.at(-1);
  again.state(true, { theme: 'ada’s' }, 'ada');
  again.tell('set', { theme: 'new' });
  for (const { session } of [leader, signedIn]) assert.deepEqual(values(session), { theme: 'new' });
  assert.deepEqual(streaming(), [again]);
});

test('session end reaches every tab', async () => {
  const all = await tabs(3, true, { theme: 'dark' });
  all[0].source.tell('closed', 'destroyed');
  for (const { session, events } of all) {
    assert.deepEqual(values(session), {});
    assert.deepEqual(events.slice(-2), [['closed', { reason: 'destroyed' }], ['lost', null]]);
  }
  for (const [id, { run }] of waits()) {
    timers.delete(id);
    run();
  }
  assert.equal(streaming().length, 3);
  for (const source of streaming()) source.state(false);
  assert.equal(streaming().length, 1);
});

test('next tab leads after the leading tab closes', async () => {
  const [first, second, third] = await tabs(3, true, { n: 1 });
  first.session.close();
  await settled();
  const [source, ...more] = streaming();
  assert.equal(more.length, 0);
  source.state(true, { n: 2 });
  source.tell('set', { n: 3 });
  for (const { session } of [second, third]) assert.deepEqual(values(session), { n: 3 });
});

test('silent leading tab loses the stream', async () => {
  const [leader, other] = await tabs(2, true, { n: 1 });
  // The leading tab is frozen: its channel delivers no message, and its stream stays open.
  const frozen = [...channels][0];
  channels.delete(frozen);
  const timersOfOther = () => watches().slice(1);
  assert.deepEqual(await silence(timersOfOther()), [37_500]);
  assert.deepEqual(streaming(), [leader.source], 'the other tab first asks the leading tab');
  assert.deepEqual(await silence(timersOfOther()), [3_000]);
  assert.ok(leader.source.closed, 'the former leading tab closes its stream');
  const [source] = streaming();
  source.state(true, { n: 2 });
  assert.deepEqual(values(other.session), { n: 2 });
  channels.add(frozen);
  await wait();
  sources.at(-1).state(true, { n: 2 });
  source.tell('set', { n: 3 });
  for (const { session } of [leader, other]) assert.deepEqual(values(session), { n: 3 });
  assert.deepEqual(streaming(), [source]);
});

test('leading tab without heartbeats gives up the stream', async () => {
  const [leader, other] = await tabs(2, true, { n: 1 });
  time += 37_500; // a frozen page hears the channel, and its timers stand still
  await silence(watches().slice(1));
  assert.ok(leader.source.closed);
  assert.deepEqual(other.events, [['lost', null]]);
});

test('answering leading tab keeps the stream', async () => {
  const [leader, other] = await tabs(2, true);
  document.dispatchEvent(new Event('visibilitychange'));
  leader.source.tell('heartbeat', null);
  assert.deepEqual([...timers.values()].map(({ delay }) => delay), [37_500, 37_500]);
  assert.deepEqual(streaming(), [leader.source]);
  other.session.close();
});

test('stream counts as lost after sleep', async () => {
  for (const wakes of [() => page.dispatchEvent(new Event('focus')), () => document.dispatchEvent(new Event('visibilitychange'))]) {
    const { session, events, source } = follow();
    time += 37_499;
    wakes();
    assert.ok(!source.closed);
    time += 1;
    wakes();
    assert.ok(source.closed);
    assert.deepEqual(events, [['lost', null]]);
    session.close();
  }
});

test('silence without heartbeats ends the stream', async () => {
  const { events, source } = follow();
  source.tell('heartbeat', null);
  assert.deepEqual(events, []);
  assert.deepEqual(await silence(), [37_500]);
  assert.ok(source.closed);
  assert.deepEqual(events, [['lost', null]]);
});

test('restored pages share one stream again', async () => {
  const [leader, other] = await tabs(2, true, { n: 1 });
  page.dispatchEvent(new Event('pagehide')); // all tabs share the fake window
  await settled();
  assert.deepEqual([streaming().length, channels.size], [0, 0]);
  page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
  await settled();
  for (const source of streaming()) source.state(true, { n: 2 });
  assert.equal(streaming().length, 1);
  for (const { session } of [leader, other]) assert.deepEqual(values(session), { n: 2 });
});

test('hidden tab without locks closes the stream', () => {
  const { session, source } = follow({ n: 1 });
  document.hidden = true;
  document.dispatchEvent(new Event('visibilitychange'));
  assert.ok(source.closed);
  assert.equal(timers.size, 0);
  document.hidden = false;
  document.dispatchEvent(new Event('visibilitychange'));
  sources[1].state(true, { n: 2 });
  assert.deepEqual(values(session), { n: 2 });
});

test('tab without a lock keeps a separate stream', async () => {
  navigator.locks = { request: () => Promise.reject(new DOMException('no', 'SecurityError')) };
  const { session } = open({});
  await settled();
  sources[0].state(true, { n: 1 });
  assert.ok(!sources[0].closed);
  assert.deepEqual(values(session), { n: 1 });
});

test('messages of a former leading tab are ignored', async () => {
  const [leader, thief, other] = await tabs(3, true, { n: 1 });
  const channel = new Channel('layered-session https://shop.test/session same-origin');
  const told = [];
  channel.onmessage = ({ data }) => told.push(data);
  leader.source.tell('set', { n: 2 });
  const late = told.at(-1);
  time += 1;
  channels.delete([...channels][0]); // the leading tab is blocked
  await silence(watches().slice(1, 2));
  await silence(watches().filter(([, { delay }]) => delay === 3_000));
  const source = streaming().at(-1);
  source.state(true, { n: 3 });
  channel.postMessage(late);
  for (const { session } of [thief, other]) assert.deepEqual(values(session), { n: 3 });
});

test('leading tab yields to a newer leading tab', async () => {
  const [leader, other] = await tabs(2, true, { n: 1 });
  const channel = new Channel('layered-session https://shop.test/session same-origin');
  channel.onmessage = () => {};
  channel.postMessage({ type: 'here', session: 'aaaa', user: '', term: 1e15 });
  assert.ok(leader.source.closed);
  await settled();
  assert.equal(streaming().length, 1, 'the next tab in the queue leads');
  streaming()[0].state(true, { n: 2 });
  assert.deepEqual(values(other.session), { n: 2 });
});

test('next leading tab prevents a second takeover', async () => {
  const delays = () => watches().map(([, { delay }]) => delay);
  const [leader] = await tabs(3, true);
  channels.delete([...channels][0]); // the leading tab is blocked
  await silence(watches().slice(2));
  assert.deepEqual(delays(), [37_500, 37_500, 3_000]);
  leader.session.close();
  await settled();
  assert.deepEqual(delays(), [37_500, 37_500], 'a new stream before its first state, and a tab that waits for the stream');
  await silence(watches().slice(0, 1));
  assert.deepEqual(delays(), [37_500, 37_500], 'the next leading tab has answered');
  assert.equal(streaming().length, 1);
});

test('turn drops a value in flight', async () => {
  for (const end of [cut, () => answer(409, { code: 'session_closed', message: '' })]) {
    const [mine, other] = [open(), open()];
    other.session.store({ draft: 'dear diary' });
    const [post] = posts.splice(0);
    mine.session.relay('t.order');
    await answer(200, { stored: ['$relay'] });
    posts.push(post);
    await end();
    assert.deepEqual(waits(), []);
    const refused = other.events.filter(([type]) => type === 'refused').map(([, { code, names }]) => [code, names]);
    assert.deepEqual(refused, [['user_changed', ['draft']]]);
    posts.length = 0;
    mine.session.close();
    other.session.close();
  }
});

test('restored page without stream drops failed values', async () => {
  const { session, events } = open();
  session.store({ draft: 'dear diary' });
  page.dispatchEvent(new Event('pagehide'));
  await cut();
  page.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
  const told = events.filter(([type]) => type !== 'change');
  assert.deepEqual(told, [['refused', { code: 'user_changed', message: '', names: ['draft'] }], ['turned', null]]);
  await wait();
  assert.equal(posts.length, 1);
});

test('focused visitor tab asks for a session', async () => {
  const [leader] = await tabs(1, false);
  time += 1_501;
  page.dispatchEvent(new Event('focus'));
  document.dispatchEvent(new Event('visibilitychange'));
  assert.ok(leader.source.closed);
  assert.equal(streaming().length, 1);
  streaming()[0].state(true, { n: 1 });
  assert.deepEqual(values(leader.session), { n: 1 });
});

test('resuming at begun events does not loop', async () => {
  const all = [open(), open(), open()];
  let begun = 0;
  for (const { session } of all) {
    session.addEventListener('begun', () => {
      begun++;
      session.resume();
    });
  }
  time += 1_000;
  all[0].session.resume();
  assert.ok(begun <= 6, `the event fired ${begun} times`);
});

test('ignored values announce no new session', async () => {
  const [mine, other] = [open(), open()];
  mine.session.store({ unheard: 1 });
  await answer(200, { stored: [], ignored: ['unheard'] });
  assert.deepEqual(other.events, []);
});

test('another user’s state empties the tab at once', async () => {
  const [leader, other] = await tabs(2, true, { theme: 'dark' }, 'ada');
  leader.source.state(true, { theme: 'bob’s' }, 'bob');
  assert.deepEqual(values(other.session), {});
  assert.deepEqual(other.events, [['change', { names: ['theme'] }], ['lost', null]]);
});

test('failed new leading tab keeps the values', async () => {
  const [leader, other] = await tabs(2, true, { n: 1 });
  const late = open({});
  leader.session.close();
  other.session.close();
  await settled();
  const [third] = await tabs(1, true, { n: 1 });
  sources.find((source) => !source.closed && source !== third.source)?.fail();
  assert.deepEqual(values(third.session), { n: 1 });
  assert.deepEqual(third.events.at(-1), ['lost', null]);
  late.session.close();
});

test('tab without locks ignores other tabs’ changes', async () => {
  const { request } = Locks.prototype;
  const [leader] = await tabs(1, true, { n: 1 });
  navigator.locks.request = () => Promise.reject(new DOMException('no', 'SecurityError'));
  const alone = open({});
  await settled();
  sources.at(-1).state(true, { n: 1 });
  navigator.locks.request = request;
  leader.source.tell('set', { n: 2 });
  assert.deepEqual(values(alone.session), { n: 1 }, 'only the tab’s own stream changes its values');
  sources.at(-1).tell('set', { n: 3 });
  assert.deepEqual(values(alone.session), { n: 3 });
});

test('hook closed in a listener stays silent', async () => {
  const { session, events, source } = follow({ theme: 'dark' });
  session.addEventListener('change', () => session.close());
  source.tell('closed', 'destroyed');
  assert.deepEqual(events, [['change', { names: ['theme'] }]]);
  assert.equal(timers.size, 0);

  const posting = open();
  posting.session.store({ a: 1 });
  await cut();
  posting.session.close();
  assert.equal(timers.size, 0);
});

test('equivalent URLs share one channel', async () => {
  const [mine, other] = [open(), open({ url: 'https://shop.test/session/', events: false })];
  mine.session.relay('t.order');
  await answer(200, { stored: ['$relay'] });
  assert.deepEqual(other.events.at(-1), ['turned', null]);
  const credentials = open({ credentials: 'include', events: false });
  mine.session.relay('t.order');
  await answer(200, { stored: ['$relay'] });
  assert.deepEqual(credentials.events, [], 'other credentials mean other cookies, so another channel');
});

test('birth token announces a session to other tabs', async () => {
  const [mine, other] = [open(), open()];
  mine.session.relay('b.birth');
  await answer(200, { stored: ['$relay'] });
  assert.deepEqual(mine.events, [['stored', { stored: ['$relay'], ignored: [] }]]);
  assert.deepEqual(other.events, [['begun', null]]);
  assert.equal(sources.length, 0);
});

test('refused stream is lost with a reason', async () => {
  const { events } = open({});
  sources[0].readyState = 2;
  sources[0].fail();
  const refusal = { code: 'cross_site', message: 'another site' };
  assert.equal(posts.at(-1).url, '/session/events');
  posts.at(-1).resolve({ ok: false, json: async () => refusal });
  await settled();
  assert.deepEqual(events, [['lost', refusal]]);
});
