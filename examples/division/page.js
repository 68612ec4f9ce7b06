// One socket for all views. The server sends ready fragments; this file puts them in place, keeps the address bar in
// step, and hands what the socket says is worth storing to the writeback hook.
import { connect } from '/store_session/hook.js';

const SHORTEST = 250; // ms before the first reconnection; it doubles up to LONGEST
const LONGEST = 10_000;
const STEADY = 5_000; // ms after which a connection counts as a good one

const element = (id) => document.getElementById(id);
const main = element('view');
const select = element('division');
const links = [...document.querySelectorAll('nav a')];
let hook = carrier();

// ---- the socket

let socket;
let timer;
let failures = 0;
let back = false; // whether the page was here before this connection

function open() {
  clearTimeout(timer);
  connection('connecting', 'Connecting');
  const opened = performance.now();
  const mine = (socket = new WebSocket(location.origin.replace('http', 'ws') + '/live'));
  mine.onopen = () => {
    connection('open', 'Live');
    send({ event: 'navigate', view: wanted });
    hook.resume(); // what it has yet to bring need not wait any longer
  };
  mine.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    on[frame.event]?.(frame);
  };
  mine.onclose = ({ reason }) => {
    if (mine !== socket) return;
    if (asked !== null) refused(reason || 'the connection was lost');
    connection('closed', 'Reconnecting');
    back = true;
    failures = performance.now() - opened > STEADY ? 0 : failures + 1;
    timer = setTimeout(open, Math.min(LONGEST, SHORTEST * 2 ** failures) * (0.5 + Math.random() / 2));
  };
}

// Without the pause that follows a lost connection.
function reopen() {
  const before = socket;
  failures = 0;
  open();
  before.close();
}

function send(frame) {
  if (socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(frame));
  return true;
}

const on = {
  division({ id }) {
    asked = null;
    const changed = id !== Number(document.documentElement.dataset.division);
    document.documentElement.dataset.division = id;
    select.value = id;
    if (changed) element('announcement').textContent = `Showing ${select.selectedOptions[0]?.text}`;
    if (changed || back) status();
    back = false;
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

// Takes to the writeback what the socket hands out, and what is chosen while there is none. The socket tells the rest.
function carrier() {
  const hook = connect({ url: '/store_session', events: false });
  hook.addEventListener('stored', () => {
    unsaved = null;
    status(); // a session's first write is the browser's only now
  });
  hook.addEventListener('refused', ({ detail }) => refused(detail.message));
  // The user signed in or out, here or in another tab: this socket is the old session's.
  hook.addEventListener('turned', () => {
    reopen();
    status();
  });
  // The socket's session is not the browser's any more. The next connection gets the one that is, and so does what this
  // page has yet to store.
  hook.addEventListener('conflict', async () => {
    socket.close();
    if ((await status()) && unsaved !== null) hook.store({ current_division_id: unsaved });
  });
  return hook;
}

// A page that comes back, from another tab, from sleep or from the back button's cache, may have missed something.
function wake() {
  if (socket.readyState > WebSocket.OPEN) open();
}
addEventListener('online', wake);
addEventListener('pageshow', ({ persisted }) => persisted && wake());
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  wake();
  status();
});

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
  if (!send({ event: 'navigate', view })) wake(); // a new connection asks for it first
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
let unsaved = null; // the one that it has stored, and the browser's cookie may not hold yet

function choose(id) {
  if (send({ event: 'switch-division', id })) asked = unsaved = id;
  else hook.store({ current_division_id: id }); // it tries until there is a server again
}

function refused(message) {
  asked = unsaved = null;
  select.value = document.documentElement.dataset.division;
  notice(`The division was not switched (${message}).`);
}

select.addEventListener('change', () => choose(Number(select.value)));

// The forms that do it without a script, and without a socket.
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

// ---- what the page says about itself

// Which tier answers, and who is signed in: another tab may have changed that. Resolves to whether it is still the same.
async function status() {
  const answer = await fetch('/division', { cache: 'no-store' }).catch(() => null);
  if (!answer?.ok) return false;
  const { value, tier, user } = await answer.json();
  element('tier').textContent = tier;
  element('forget').hidden = tier === 'default';

  const name = document.querySelector('#logout b');
  if (name.textContent === (user ?? '')) {
    // A socket that was opened before there was a session does not hear of the one that a POST has begun since.
    const behind = value !== Number(document.documentElement.dataset.division);
    if (behind && asked === null && unsaved === null) socket.close();
    return true;
  }
  name.textContent = user ?? '';
  document.querySelector('#logout .avatar').textContent = [...(user ?? '')][0] ?? '';
  element('logout').hidden = user === null;
  element('login').hidden = user !== null;
  element('user').value = '';
  // What was chosen here must not become their choice.
  hook.close();
  hook = carrier();
  if (unsaved !== null) refused('somebody signed in or out in another tab');
  socket.close(); // it may still speak for whoever was here before
  return false;
}

function connection(state, text) {
  document.body.dataset.connection = state;
  element('connection').textContent = text;
}

let fading;
function notice(text) {
  element('notice').textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => (element('notice').textContent = ''), 8_000);
}

element('forget').hidden = element('tier').textContent === 'default';
open();
