// One stream of events; whatever it says is put in place as text, never as markup.

const SHORTEST = 500; // ms before the first reconnection; it doubles up to LONGEST
const LONGEST = 15_000;
const ASK_AGAIN = 3_000; // ms, where no change can be heard of
const KEPT = 200; // entries of the log

const element = (id) => document.getElementById(id);
const number = new Intl.NumberFormat('en');
const clone = (id) => element(id).content.firstElementChild.cloneNode(true);

// ---- the connection

let source;
let timer;
let failures = 0;

function open() {
  clearTimeout(timer);
  source?.close();
  const mine = (source = new EventSource('?events'));
  mine.addEventListener('report', ({ data }) => {
    failures = 0;
    connection('open', 'Live');
    notice('');
    const report = JSON.parse(data);
    show(report);
    const deaf = report.session.state === 'none' || !report.chain.includes('memory');
    clearTimeout(timer);
    if (deaf) timer = setTimeout(open, ASK_AGAIN);
  });
  mine.addEventListener('changes', ({ data }) => {
    const { now, changes } = JSON.parse(data);
    for (const change of changes) log(now, change);
  });
  mine.addEventListener('closed', ({ data }) => {
    mine.close();
    const reason = JSON.parse(data);
    log(Date.now() + ahead, { kind: 'closed', reason });
    again(`Closed (${reason})`);
  });
  mine.onerror = async () => {
    mine.close();
    const reason = await askWhy();
    if (mine !== source) return;
    notice(reason);
    again('Not connected');
  };
}

function again(text) {
  const delay = Math.min(LONGEST, SHORTEST * 2 ** failures++);
  connection('closed', text);
  clearTimeout(timer);
  timer = setTimeout(open, delay);
}

// An EventSource does not say why it failed.
async function askWhy() {
  const stop = new AbortController();
  try {
    const answer = await fetch('?events', { cache: 'no-store', signal: stop.signal });
    if (answer.status === 204) return 'This browser’s session has just ended. A new one begins with the next sign-in, or in a minute.';
    if (answer.ok) return '';
    const { message } = await answer.json();
    return `The server refuses: ${message}.`;
  } catch {
    return 'The server does not answer.';
  } finally {
    stop.abort();
  }
}

function connection(state, text) {
  document.body.dataset.connection = state;
  if (element('connection').textContent !== text) element('connection').textContent = text;
}

function notice(text) {
  element('notice').textContent = text;
  element('notice').hidden = text === '';
}

addEventListener('online', open);
addEventListener('pageshow', ({ persisted }) => persisted && open());
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && source.readyState === EventSource.CLOSED) open();
});

// A value whose integers a number of JavaScript's would round comes as a text.
const json = ({ value, text }, indent) => text ?? JSON.stringify(value, null, indent);

// ---- the report

let ahead = 0; // how far the server's clock is ahead of this one
let values = new Map();

function show(report) {
  ahead = report.now - Date.now();
  showSession(report.session);
  showToken(report);
  element('resolution').textContent = `${report.chain.join(' → ')} · ${
    report.resolution === 'newest' ? 'of what is stored, the newest version answers' : 'the first that has a copy answers'
  }`;
  values = new Map(report.values.map((value) => [value.name, value]));
  const list = element('values');
  if (!values.size) list.textContent = 'No value is declared.';
  for (const value of values.values()) showValue(list, value);
}

function showSession({ state, signed_in, created, expires, ends, ends_with_browser, in_step }) {
  const live = state === 'live';
  element('state').textContent = live ? 'Live' : 'None yet';
  element('state').dataset.state = state;
  element('about').textContent = live ? '' : 'A visitor has no session and no cookie before the first write. This page asks again every few seconds.';
  element('life').hidden = !live;
  if (!live) return;
  until(element('expires'), expires);
  until(element('ends'), ends, ends_with_browser ? ', or with the browser' : '');
  element('created').textContent = moment(created);
  element('signed-in').textContent = signed_in ? 'yes' : 'no';
  element('in-step').textContent = in_step ? 'up to date' : 'behind: the next response brings it up to date';
  element('in-step').dataset.behind = !in_step;
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
    row.querySelector('b').textContent = `${number.format(share.bytes)} of ${number.format(share.budget)}`;
    row.querySelector('progress').value = share.bytes / (share.budget || 1);
  }
  const riding = `${undeclared} ${undeclared === 1 ? 'value rides' : 'values ride'} along that this build does not declare.`;
  element('undeclared').textContent = undeclared ? riding : '';
}

const SCOPES = {
  session: 'the browser’s own: it ends with the session',
  principal: 'the signed-in user’s, in all browsers; while nobody is signed in, the browser’s own',
};

const shown = new Map(); // what each card was made of

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
  if (max_age_ms !== null) badges.append(badge(`lives ${span(max_age_ms)}`));
  if (expires !== null) {
    const left = badge('');
    until(left, expires, ' left');
    badges.append(left);
  }
  const answers = tiers.find(({ tier }) => tier === winner);
  const stands = answers?.answer === 'value';
  const pretty = stands ? json(value, 2) : 'nothing, or the type’s own default';
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
  if (pre.scrollHeight > pre.clientHeight) pre.tabIndex = 0; // to be scrolled with the keyboard
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

// 1 d 23:59:12
function clock(ms) {
  const seconds = Math.ceil(ms / 1_000);
  const two = (count) => String(count).padStart(2, '0');
  const days = Math.floor(seconds / 86_400);
  const [hours, minutes] = [Math.floor(seconds / 3_600) % 24, Math.floor(seconds / 60) % 60];
  return `${days ? `${days} d ` : ''}${two(hours)}:${two(minutes)}:${two(seconds % 60)}`;
}

// The largest unit that tells it whole.
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
  renewed: 'renewed: it goes on under a new id',
  destroyed: 'destroyed: somebody signed out',
  revoked: 'revoked: all sessions of its user were ended',
  shutdown: 'the server is shutting down',
};
const MEANINGS = {
  renewed: 'the session has a new id, or another user: what there is now follows',
  caught_up: 'there were more steps than are told one by one',
  cleared: 'all values; their removals follow',
  expired: 'reached the end of its own lifetime',
};

function log(time, { kind, name, version, origin, reason }) {
  const entry = clone('entry');
  entry.dataset.kind = kind;
  const stamp = entry.querySelector('time');
  stamp.textContent = hour.format(time);
  stamp.dateTime = new Date(time).toISOString();
  entry.querySelector('.badge').textContent = WORDS[kind] ?? kind;
  entry.querySelector('b').textContent = name ?? '';
  // What the report, which comes first, has of it.
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
