// One socket for all views. The server sends ready fragments; this file puts the fragments in place, updates the
// address bar, and hands the socket's relay tokens to the writeback hook.
import { connect } from '/store_session/hook.js';

const SHORTEST = 250; // ms before the first reconnection; the delay doubles up to LONGEST
const LONGEST = 10_000;
const STEADY = 5_000; // ms after which a connection counts as good, and the delay starts over
const UNNOTICED = 600; // ms: the page does not mention a shorter interruption

const element = (id) => document.getElementById(id);
const main = element('view');
const select = element('division');
const links = [...document.querySelectorAll('nav a')];
let hook = carrier();

// ---- the socket

let socket;
let timer;
let failures = 0;
let visitor = true; // whether the socket was opened without a session
let patience = Infinity; // ms of silence after which a connection counts as lost
let heard = 0; // the time of the last frame

function open() {
  clearTimeout(timer);
  const opened = (heard = Date.now());
  const mine = (socket = new WebSocket(location.origin.replace('http', 'ws') + '/live'));
  mine.onopen = () => send({ event: 'show', view: wanted });
  mine.onmessage = ({ data }) => {
    heard = Date.now();
    const frame = JSON.parse(data);
    on[frame.event]?.(frame);
  };
  mine.onclose = ({ reason }) => {
    if (mine !== socket) return;
    if (asked !== null) refused(reason || 'the connection was lost');
    disconnected(reason);
    failures = Date.now() - opened > STEADY ? 0 : failures + 1;
    timer = setTimeout(open, Math.min(LONGEST, SHORTEST * 2 ** failures) * (0.5 + Math.random() / 2));
  };
}

// Reconnects without the pause that follows a lost connection.
function reopen() {
  const before = socket;
  failures = 0;
  open();
  before?.close();
}

// Replaces a silent connection. A lost network causes no event, but the server's heartbeats stop.
function look() {
  if (!socket || socket.readyState === WebSocket.CONNECTING) return; // without a socket, `pageshow` is about to open a socket
  if (socket.readyState === WebSocket.OPEN && Date.now() - heard < patience) return;
  disconnected(reason);
  reopen();
}

function send(frame) {
  if (socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(frame));
  return true;
}

const on = {
  heartbeat({ milliseconds }) {
    patience = 2.5 * milliseconds;
  },
  division({ id, tier, user, session }) {
    asked = chosen = null;
    visitor = !session;
    const changed = id !== shown();
    document.documentElement.dataset.division = id;
    select.value = id;
    if (changed) element('announcement').textContent = `Showing ${nameOf(id)}`;
    about({ tier, user });
    connected();
  },
  view({ view, html }) {
    if (view !== wanted) return; // overtaken by another click
    const arrived = view !== main.dataset.view;
    main.dataset.view = view;
    main.removeAttribute('aria-busy');
    if (main.innerHTML !== html) main.innerHTML = html;
    if (arrived) main.querySelector('h1')?.focus({ preventScroll: true });
  },
  store_session({ relay }) {
    hook.relay(relay);
  },
  error({ message }) {
    refused(message);
  },
};

// Opens a hook that brings to the writeback the socket's relay tokens, and choices that were made without a socket. The
// hook needs no events, since the socket brings the values.
function carrier() {
  const hook = connect({ url: '/store_session', events: false });
  hook.addEventListener('stored', () => {
    unsaved = null;
    if (visitor) reopen(); // the socket does not see the session that the POST has begun
    status(); // the browser gets the cookie of a session's first write only now
  });
  hook.addEventListener('refused', ({ detail }) => refused(detail.message));
  hook.addEventListener('begun', () => visitor && reopen());
  // The user signed in or out, in this tab or another: this socket belongs to the old session.
  hook.addEventListener('turned', () => {
    reopen();
    status();
  });
  // By now the browser has another session than the socket. The next connection gets the browser's session, and the hook
  // stores the pending value there.
  hook.addEventListener('conflict', async () => {
    socket?.close();
    if ((await status()) && unsaved !== null) hook.store({ current_division_id: unsaved });
  });
  return hook;
}

setInterval(() => Date.now() - heard >= patience && look(), 1_000);
for (const type of ['online', 'focus']) addEventListener(type, look);
// The browser may be wrong about the network, so the page tries to connect.
addEventListener('offline', () => {
  disconnected('');
  reopen();
});
// A page that comes back from another tab, from sleep or from the back button's cache may have missed a change.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  look();
  status();
});
addEventListener('pagehide', () => {
  clearTimeout(timer);
  const before = socket;
  socket = undefined;
  before?.close();
});
addEventListener('pageshow', ({ persisted }) => persisted && !socket && reopen());

// ---- the views

let wanted = main.dataset.view;

function show(view) {
  if (view === wanted) return;
  wanted = view;
  for (const link of links) {
    if (link.dataset.view !== view) link.removeAttribute('aria-current');
    else {
      link.setAttribute('aria-current', 'page');
      document.title = `${link.text} · Aldermoor`;
    }
  }
  main.setAttribute('aria-busy', 'true');
  scrollTo(0, 0);
  if (!send({ event: 'navigate', view })) look(); // a new connection first asks for the wanted view
}

document.addEventListener('click', (event) => {
  const link = event.target.closest('a[data-view]');
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  if (link.dataset.view !== wanted) history.pushState(null, '', link.href);
  show(link.dataset.view);
});

addEventListener('popstate', () => {
  show(links.find((link) => link.pathname === location.pathname)?.dataset.view ?? 'home');
});

// ---- the division

let asked = null; // the switch that the server has not answered yet
let unsaved = null; // the switch that the server has stored, and the browser's cookie may lack
let chosen = null; // the switch that waits for a connection

const shown = () => Number(document.documentElement.dataset.division);
const nameOf = (id) => [...select.options].find(({ value }) => Number(value) === id)?.text ?? id;

function choose(id) {
  if (send({ event: 'switch-division', id })) asked = unsaved = id;
  else {
    chosen = id;
    hook.store({ current_division_id: id }); // the hook tries until a server answers
    explain();
  }
}

function refused(message) {
  asked = unsaved = chosen = null;
  select.value = shown();
  notice(`The division was not switched (${message}).`);
  explain();
}

select.addEventListener('change', () => choose(Number(select.value)));

// Forms that work without a script and without a socket.
const submit = {
  '/division': (form) => (choose(Number(form.get('id'))), true),
  '/login': (form) => send({ event: 'login', user: form.get('user') }),
  '/logout': () => send({ event: 'logout' }),
};

document.addEventListener('submit', (event) => {
  const done = submit[event.target.getAttribute('action')]?.(new FormData(event.target, event.submitter));
  if (done) event.preventDefault();
});

element('forget').addEventListener('click', async () => {
  const answer = await fetch('/division', { method: 'DELETE' }).catch(() => null);
  if (answer?.ok) status();
  else notice('The division could not be reset.');
});

// ---- the status

// Asks for the answering tier and the signed-in user, which another tab may have changed. Resolves to true if the user
// is still the same.
async function status() {
  const answer = await fetch('/division', { cache: 'no-store' }).catch(() => null);
  if (!answer?.ok) return false;
  const { value, tier, user } = await answer.json();
  if (about({ tier, user })) {
    if (value !== shown() && asked === null && unsaved === null && chosen === null) socket?.close();
    return true;
  }
  socket?.close(); // the socket may belong to the previous user
  return false;
}

// Shows the answering tier and the signed-in user. Returns true if the user is still the same.
function about({ tier, user }) {
  element('tier').textContent = tier;
  element('kept').textContent = element('kept').dataset[tier];
  element('forget').hidden = tier === 'default';
  const name = document.querySelector('#logout b');
  if (name.textContent === (user ?? '')) return true;
  name.textContent = user ?? '';
  document.querySelector('#logout .avatar').textContent = [...(user ?? '')][0] ?? '';
  element('logout').hidden = user === null;
  element('login').hidden = user !== null;
  element('user').value = '';
  // A choice of the previous user must not become a choice of the new user.
  hook.close();
  hook = carrier();
  if (unsaved !== null || chosen !== null) refused('a user signed in or out in another tab');
  return false;
}

let reason = ''; // the server's reason for the close of the connection
let unnoticed; // the timer of a short interruption

function connected() {
  if (document.body.dataset.connection === 'open') return;
  document.body.dataset.connection = 'open';
  element('connection').textContent = 'Live';
  explain();
  if (chosen !== null || unsaved !== null) hook.resume(); // posts a pending choice at once
}

function disconnected(why) {
  reason = why;
  document.body.dataset.connection = 'closed';
  element('connection').textContent = 'Reconnecting';
  clearTimeout(unnoticed);
  unnoticed = setTimeout(explain, UNNOTICED);
}

// Shows the banner while there is no connection: the view may be old, and a choice may still wait.
function explain() {
  clearTimeout(unnoticed);
  const away = document.body.dataset.connection === 'closed';
  main.toggleAttribute('data-old', away);
  element('away').hidden = !away;
  if (!away) return;
  let text = 'Not connected. The page may be out of date.';
  if (chosen !== null) text = `Not connected. The page still shows ${nameOf(shown())}. ${nameOf(chosen)} follows with the connection.`;
  if (reason === 'cross-site') {
    text = `The server treats this page as a page of another site, since a proxy in front of the server changes the Host header.
      The server's operator can list ${location.origin} in public_origins.`;
  }
  element('away').textContent = text;
}

let fading;
function notice(text) {
  element('notice').textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => (element('notice').textContent = ''), 8_000);
}

element('forget').hidden = element('tier').textContent === 'default';
open();
