// The strip of the node: counts visits, and shows the state of the store and of the link to the other nodes.
import { connect } from '/store_session/hook.js';

const PAUSE = 2_000; // ms between two looks at the node

const element = (id) => document.getElementById(id);
const store = element('store');
const hook = connect({ url: '/store_session', events: false });

// Asks the node, and returns its answer; null without an answer.
async function ask(path, options) {
  const answer = await fetch(path, { cache: 'no-store', ...options }).catch(() => null);
  return { ok: answer?.ok, body: await answer?.json().catch(() => null) };
}

function says(kind, text) {
  store.className = kind;
  if (store.textContent !== text) store.textContent = text;
  store.hidden = false;
}

async function visits(options) {
  const { ok, body } = await ask('/visits', options);
  if (ok) element('visits').textContent = body.visits;
  return ok;
}

element('count').addEventListener('submit', async (event) => {
  event.preventDefault();
  if (await visits({ method: 'POST' })) hook.resume(); // a first visit begins a session, which open sockets don't see
  else says('bad', 'The visit was not counted');
});

let failures = Infinity; // the failed calls of the store until the last look

async function look() {
  if (document.hidden) return;
  const { ok, body } = await ask('/stats');
  if (!ok) return says('bad', 'The node does not answer');
  if (body.store_open || body.store_failures > failures) says('bad', 'The store does not answer');
  else if (body.notice_link === 'down') says('warn', 'No notices of the other nodes');
  else says('good', 'The store answers');
  failures = body.store_failures;
}

// Another tab or node may have counted visits meanwhile.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  visits();
  look();
});
setInterval(look, PAUSE);
element('count').hidden = false;
look();
