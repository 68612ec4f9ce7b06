// One socket for all views. The server sends ready fragments; this file puts them in place, keeps the address bar in
// step, and hands what the socket says is worth storing to the writeback hook.
import { connect } from '/store_session/hook.js';

const WRITEBACK = '/store_session';
const PATIENCE = 250; // ms before the first reconnection; doubles up to LONGEST
const LONGEST = 10_000;
const STEADY = 5_000; // ms after which a connection counts as a good one

const page = document.documentElement;
const main = document.getElementById('main');
const division = document.getElementById('division');
const forget = document.getElementById('forget');
const hook = connect({ url: WRITEBACK });

// ---- the socket

let socket;
let timer;
let failures = 0;
let asked = null; // the switch that the server has not answered yet

function open() {
  clearTimeout(timer);
  const opened = performance.now();
  const live = (socket = new WebSocket(location.origin.replace('http', 'ws') + '/live'));
  live.onopen = () => {
    connection('live', 'Live');
    send({ event: 'navigate', view: page.dataset.view });
    hook.resume(); // what it has yet to bring need not wait longer
  };
  live.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    on[frame.event]?.(frame);
  };
  live.onclose = ({ reason }) => {
    if (live !== socket) return;
    if (asked !== null) refused(reason || 'the connection was lost');
    failures = performance.now() - opened > STEADY ? 0 : failures + 1;
    connection('offline', 'Reconnecting');
    timer = setTimeout(open, Math.min(LONGEST, PATIENCE * 2 ** failures) * (0.5 + Math.random() / 2));
    greet = true;
  };
}

function send(frame) {
  if (socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(frame));
  return true;
}

let greet = false; // whether the next division comes from a new connection of a page that was here before

const on = {
  division({ id }) {
    asked = null;
    const changed = id !== Number(page.dataset.division);
    page.dataset.division = id;
    division.value = id;
    if (changed) announce(`Showing ${division.selectedOptions[0]?.text}`);
    if (changed || greet) status();
    greet = false;
  },
  view({ view, html }) {
    if (view !== page.dataset.view) return; // overtaken by another click
    main.removeAttribute('aria-busy');
    if (main.innerHTML !== html) main.innerHTML = html;
    if (!arriving) return;
    arriving = false;
    main.querySelector('h1')?.focus({ preventScroll: true });
  },
  store_session({ relay }) {
    hook.relay(relay);
  },
  error({ message }) {
    refused(message);
  },
};

// The first write of a session is only the browser's once its token has been posted: ask again after that.
hook.addEventListener('stored', status);
hook.addEventListener('refused', ({ detail }) => refused(detail.message));
// The socket's session is not the browser's any more; the next one gets the cookie that is.
hook.addEventListener('conflict', () => socket.close());

// ---- views

let arriving = false; // whether the next fragment is a view that the user has asked for

function show(view) {
  if (view === page.dataset.view) return;
  page.dataset.view = view;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.dataset.view === view) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = `${document.querySelector('nav [aria-current]').text} · Aldermoor`;
  arriving = true;
  main.setAttribute('aria-busy', 'true');
  send({ event: 'navigate', view }) || retry();
  scrollTo(0, 0);
}

document.addEventListener('click', (event) => {
  const link = event.target.closest('a[data-view]');
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  if (link.dataset.view !== page.dataset.view) history.pushState(null, '', link.href);
  show(link.dataset.view);
});

addEventListener('popstate', () => {
  show([...document.querySelectorAll('nav a')].find((link) => link.pathname === location.pathname)?.dataset.view ?? 'home');
});

// ---- the division

function choose(id) {
  asked = id;
  // Without a socket the hook still brings the choice to the server, as soon as there is one.
  if (send({ event: 'switch-division', id })) return;
  asked = null;
  hook.store({ current_division_id: id });
}

function refused(message) {
  asked = null;
  division.value = page.dataset.division;
  notice(`The division was not switched: ${message}.`);
}

division.addEventListener('change', () => choose(Number(division.value)));

document.addEventListener('submit', (event) => {
  if (event.target.getAttribute('action') !== '/division') return;
  event.preventDefault();
  choose(Number(new FormData(event.target, event.submitter).get('id')));
});

forget.hidden = document.getElementById('tier').textContent === 'default';
forget.addEventListener('click', async () => {
  const answer = await fetch('/division', { method: 'DELETE' }).catch(() => null);
  if (answer?.ok) status();
  else notice('The division could not be reset.');
});

// ---- what the page says about itself

/** Asks which tier answers, and who is signed in: another tab may have changed that. */
async function status() {
  const answer = await fetch('/division', { cache: 'no-store' }).catch(() => null);
  if (!answer?.ok) return;
  const { tier, user } = await answer.json();
  document.getElementById('tier').textContent = tier;
  forget.hidden = tier === 'default';
  const name = document.querySelector('#signed-in b');
  if (name.textContent === (user ?? '')) return;
  name.textContent = user ?? '';
  document.querySelector('.avatar').textContent = [...(user ?? '')][0] ?? '';
  document.getElementById('signed-in').hidden = user === null;
  document.getElementById('signed-out').hidden = user !== null;
  socket.close(); // it still speaks for whoever was here before
}

function connection(state, text) {
  const line = document.getElementById('connection');
  line.dataset.state = state;
  line.textContent = text;
}

function announce(text) {
  document.getElementById('announcement').textContent = text;
}

let fading;
function notice(text) {
  const line = document.getElementById('notice');
  line.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => (line.textContent = ''), 8_000);
}

// A page that comes back, from another tab, from sleep or from the back button's cache, may have missed something.
function retry() {
  if (socket.readyState > WebSocket.OPEN) open();
}
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  retry();
  status();
});
addEventListener('online', retry);
addEventListener('pageshow', (event) => event.persisted && retry());

open();
