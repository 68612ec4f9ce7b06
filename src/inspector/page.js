// The page reads one stream of events, and shows the data of the events as text, never as markup.

const SHORTEST = 500; // ms before the first reconnection; the wait doubles up to LONGEST
const LONGEST = 15_000;
const ASK_AGAIN = 3_000; // ms between two streams where the server can't notify of changes: no session, or no memory
const SILENCE = 2.5; // intervals of heartbeats without an event, after which the connection counts as lost
const BLIP = 800; // ms without a connection before the page shows a notice
const KEPT = 200; // the maximum number of entries in the log

const element = (id) => document.getElementById(id);
const number = new Intl.NumberFormat('en');
const clone = (id) => element(id).content.firstElementChild.cloneNode(true);

// ---- the connection

let source; // the EventSource; undefined between two connections
let timer; // the timer of the next connection
let silence; // the timer that ends a connection without events
let heartbeat = 15_000; // ms between heartbeats; each report has the server's setting
let heardAt = 0; // the time of the last event
let failures = 0;

function open() {
  hangUp();
  const mine = (source = new EventSource('?events'));
  const on = (type, listener) => mine.addEventListener(type, ({ data }) => {
    if (mine !== source) return;
    hear();
    listener(data);
  });
  on('report', (data) => {
    failures = 0;
    const report = JSON.parse(data);
    heartbeat = report.heartbeat;
    connection('open', 'Live');
    notice('');
    show(report);
    const deaf = report.session.state === 'none' || !report.chain.includes('memory');
    clearTimeout(timer);
    if (deaf) timer = setTimeout(open, ASK_AGAIN);
  });
  on('changes', (data) => {
    const { now, changes } = JSON.parse(data);
    for (const change of changes) log(now, change);
  });
  on('closed', (data) => {
    const reason = JSON.parse(data);
    log(Date.now() + ahead, { kind: 'closed', reason });
    again(`Closed (${reason})`);
  });
  on('heartbeat', () => {});
  mine.onerror = () => mine === source && lose();
  hear();
}

function hangUp() {
  source?.close();
  source = undefined;
  clearTimeout(timer);
  clearTimeout(silence);
}

function hear() {
  heardAt = Date.now();
  clearTimeout(silence);
  silence = setTimeout(lose, heartbeat * SILENCE);
}

async function lose() {
  again(navigator.onLine === false ? 'Offline' : 'Not connected');
  await new Promise((done) => setTimeout(done, BLIP));
  const lost = () => document.body.dataset.connection === 'closed';
  const reason = lost() && (await askWhy());
  if (reason && lost()) notice(shown.size ? `${reason} The values on this page may be out of date.` : reason);
}

function again(text) {
  hangUp();
  connection('closed', text);
  timer = setTimeout(open, Math.min(LONGEST, SHORTEST * 2 ** failures++));
}

// Fetches the reason of a failure: an EventSource does not tell the reason.
async function askWhy() {
  if (navigator.onLine === false) return 'This browser is offline.';
  const stop = new AbortController();
  const patience = setTimeout(() => stop.abort(), 5_000);
  try {
    const answer = await fetch('?events', { headers: { accept: 'text/event-stream' }, cache: 'no-store', signal: stop.signal });
    if (answer.status === 204) return 'The session of this browser has just ended. A new session can begin with a sign-in, or in a minute.';
    if (answer.ok) return '';
    const { message } = await answer.json();
    return `The server refuses to show the session: ${message}.`;
  } catch {
    return 'The server does not answer.';
  } finally {
    clearTimeout(patience);
    stop.abort();
  }
}

function connection(state, text) {
  document.body.dataset.connection = state;
  if (element('connection').textContent !== text) element('connection').textContent = text;
}

function notice(text) {
  if (element('notice').textContent !== text) element('notice').textContent = text;
}

// Checks by the clock: the timers of a hidden page, or of a machine that slept, fire late.
function look() {
  if (!source) restart();
  else if (Date.now() - heardAt >= heartbeat * SILENCE) lose();
}

function restart() {
  failures = 0;
  open();
}

for (const type of ['online', 'focus']) addEventListener(type, look);
document.addEventListener('visibilitychange', () => document.hidden || look());
// The browser may be wrong about `offline`: the next attempt shows the truth.
addEventListener('offline', lose);
addEventListener('pagehide', hangUp); // an open stream would keep the page out of the back/forward cache
addEventListener('pageshow', ({ persisted }) => persisted && restart());

// A value comes as a JSON text (`text`) where JavaScript would round an integer in the value.
const json = ({ value, text }, indent) => text ?? JSON.stringify(value, null, indent);

// ---- the report

let ahead = 0; // ms by which the server's clock is ahead of the browser's clock
let values = new Map();

function show(report) {
  ahead = report.now - Date.now();
  showSession(report);
  showToken(report);
  element('resolution').textContent = `${report.chain.join(' → ')} · ${
    report.resolution === 'newest' ? 'the newest stored version answers' : 'the first tier with a copy answers'
  }`;
  values = new Map(report.values.map((value) => [value.name, value]));
  const list = element('values');
  if (!values.size) list.textContent = 'This application declares no values.';
  for (const value of values.values()) showValue(list, value);
}

function showSession({ session, lifetime, values }) {
  const { state, signed_in, created, expires, ends, ends_with_browser, in_step } = session;
  const live = state === 'live';
  element('state').textContent = live ? 'Active' : 'None yet';
  element('state').dataset.state = state;
  element('about').hidden = element('visitor').hidden = live;
  element('life').hidden = !live;
  if (live) {
    until(element('expires'), expires);
    until(element('ends'), ends, ends_with_browser ? ', or with the browser' : '');
    element('created').textContent = moment(created);
    element('signed-in').textContent = signed_in ? 'yes' : 'no';
    element('in-step').textContent = in_step ? 'up to date' : 'behind: the next response updates the cookie';
    element('in-step').dataset.behind = !in_step;
  } else {
    const answered = values.filter(({ winner, tiers }) => tiers.some(({ tier, answer }) => tier === winner && answer === 'value'));
    element('answered').textContent = `${answered.length} of ${values.length}`;
    element('user').textContent = signed_in ? 'yes, without a session' : 'no';
    element('idle').textContent = span(lifetime.idle_ms);
    element('absolute').textContent = span(lifetime.absolute_ms) + (lifetime.ends_with_browser ? ', or with the browser' : '');
  }
}

function showToken({ token: { bytes, budget, session, principal }, undeclared }) {
  element('bytes').textContent = number.format(bytes);
  element('budget').textContent = number.format(budget);
  const frame = Math.max(0, Math.floor((bytes * 3) / 4) - session.bytes - principal.bytes);
  const width = (id, sealed) => (element(id).style.width = `${(((100 * sealed) / 3) * 4) / budget}%`);
  width('frame', frame);
  width('of-session', session.bytes);
  width('of-principal', principal.bytes);
  element('share-frame').querySelector('b').textContent = number.format(frame);
  for (const [name, share] of Object.entries({ session, principal })) {
    const row = element(`share-${name}`);
    row.hidden = share.budget === 0;
    row.querySelector('b').textContent = `${number.format(share.json)} bytes, ${number.format(share.json_free)} free`;
    row.querySelector('progress').value = share.bytes / (share.budget || 1);
  }
  const kept = `The token also keeps ${undeclared} ${undeclared === 1 ? 'value' : 'values'} that this build of the application does not declare.`;
  element('undeclared').textContent = undeclared ? kept : '';
}

const SCOPES = {
  session: 'a value of this browser: the value ends with the session',
  principal: 'a value of the signed-in user, in all browsers; while nobody is signed in, a value of this browser',
};

const shown = new Map(); // for each value's name: the card, and the texts from which the card was made

function showValue(list, value) {
  const { name, scope, placement, max_age_ms, expires, winner, tiers } = value;
  const text = JSON.stringify(value);
  const before = shown.get(name);
  if (before?.text === text) return;
  const card = clone('value');
  card.querySelector('h3').textContent = name;
  const badges = card.querySelector('.badges');
  badges.append(badge(scope, scope));
  badges.firstElementChild.title = SCOPES[scope];
  if (placement !== 'everywhere') badges.append(badge(placement === 'server' ? 'servers only' : 'memory only'));
  if (max_age_ms !== null) badges.append(badge(`expires after ${span(max_age_ms)}`));
  if (expires !== null) {
    const left = badge('');
    until(left, expires, ' left');
    badges.append(left);
  }
  const answers = tiers.find(({ tier }) => tier === winner);
  const stands = answers?.answer === 'value';
  const pretty = stands ? json(value, 2) : 'no value: the type’s own default answers, if the type has a default';
  const pre = card.querySelector('pre');
  pre.textContent = pretty;
  pre.className = !stands ? 'none' : pretty.length < 32 && !pretty.includes('\n') ? 'short' : '';
  card.querySelector('.chain').replaceChildren(...tiers.map((tier) => tierOf(tier, winner)));
  if (before) {
    before.card.replaceWith(card);
    card.classList.toggle('changed', before.versions !== versions(tiers) || before.pretty !== pretty);
  } else {
    if (!shown.size) list.textContent = '';
    list.append(card);
  }
  if (pre.scrollHeight > pre.clientHeight) pre.tabIndex = 0; // so that the keyboard can scroll the text
  shown.set(name, { text, card, pretty, versions: versions(tiers) });
}

const versions = (tiers) => tiers.map(({ tier, version }) => (tier === 'cookie' ? '' : version)).join();

function tierOf({ tier, answer, version, why }, winner) {
  const chip = clone('tier');
  chip.dataset.answer = answer;
  if (tier === winner) chip.setAttribute('aria-current', 'true');
  chip.querySelector('b').textContent = tier;
  chip.querySelector('.why').textContent = why;
  const code = chip.querySelector('code');
  if (version === null) code.remove();
  else {
    code.textContent = version;
    code.title = `version of ${moment(Number(version.split('.')[0]))}`;
  }
  return chip;
}

function badge(text, kind) {
  const made = document.createElement('span');
  made.className = 'badge';
  if (kind) made.dataset.kind = kind;
  made.textContent = text;
  return made;
}

// ---- times

function until(element, time, after = '') {
  element.dataset.until = time;
  element.dataset.after = after;
  element.title = moment(time);
  tick(element);
}

function tick(element) {
  const left = Number(element.dataset.until) - Date.now() - ahead;
  element.textContent = clock(Math.max(0, left)) + element.dataset.after;
}

setInterval(() => document.querySelectorAll('[data-until]').forEach(tick), 1_000);

// Formats a span as `1 d 23:59:12`.
function clock(ms) {
  const seconds = Math.ceil(ms / 1_000);
  const two = (count) => String(count).padStart(2, '0');
  const days = Math.floor(seconds / 86_400);
  const [hours, minutes] = [Math.floor(seconds / 3_600) % 24, Math.floor(seconds / 60) % 60];
  return `${days ? `${days} d ` : ''}${two(hours)}:${two(minutes)}:${two(seconds % 60)}`;
}

// Formats a span in the largest unit that has no remainder.
function span(ms) {
  const units = [[86_400_000, 'd'], [3_600_000, 'h'], [60_000, 'min'], [1_000, 's'], [1, 'ms']];
  const [size, unit] = units.find(([size]) => ms >= size && ms % size === 0) ?? [1, 'ms'];
  return `${number.format(ms / size)} ${unit}`;
}

const day = new Intl.DateTimeFormat([], { dateStyle: 'medium', timeStyle: 'medium' });
const hour = new Intl.DateTimeFormat([], { hourCycle: 'h23', hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 });

function moment(time) {
  return day.format(time);
}

// ---- the log

const ORIGINS = { fresh: 'on this node', carried: 'from elsewhere' };
const WORDS = { caught_up: 'caught up' };
const ENDS = {
  renewed: 'renewed: the session goes on under a new id',
  destroyed: 'destroyed: the application ended the session',
  expired: 'expired: the session was not used for too long, or reached its end',
  revoked: 'revoked: the application ended all sessions of the user',
  shutdown: 'the server is shutting down',
};
const MEANINGS = {
  renewed: 'the session has a new id or another user; the values of the session follow',
  caught_up: 'some changes have no entry of their own: the entries show the newest state',
  cleared: 'all values were removed; an entry for each value follows',
  expired: 'the value’s own lifetime is over',
};

function log(time, { kind, name, version, origin, reason }) {
  const entry = clone('entry');
  entry.dataset.kind = kind;
  const stamp = entry.querySelector('time');
  stamp.textContent = hour.format(time);
  stamp.dateTime = new Date(time).toISOString();
  entry.querySelector('.badge').textContent = WORDS[kind] ?? kind;
  entry.querySelector('b').textContent = name ?? '';
  // The server sends the report before the changes, so `values` has the new value already.
  const now = kind === 'set' && values.get(name);
  entry.querySelector('.what').textContent = now ? json(now) : (ENDS[reason] ?? reason ?? MEANINGS[kind] ?? '');
  entry.querySelector('code').textContent = version ?? '';
  entry.querySelector('.origin').textContent = ORIGINS[origin] ?? '';
  for (const part of entry.querySelectorAll('b, .what, code, .origin')) if (!part.textContent) part.remove();
  const list = element('log');
  list.prepend(entry);
  while (list.childElementCount > KEPT) list.lastElementChild.remove();
  entries();
}

function entries() {
  const any = element('log').childElementCount > 0;
  element('silence').hidden = any;
  element('clear').hidden = !any;
}

element('clear').addEventListener('click', () => {
  element('log').replaceChildren();
  entries();
});

open();
